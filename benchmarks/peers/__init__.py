"""Other programs that run the same checkpoint, measured beside ours: `make peers bench-peers`."""
