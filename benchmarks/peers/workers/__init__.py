"""One small program per peer. It runs in that peer's environment and imports nothing but the peer and protocol.py."""
