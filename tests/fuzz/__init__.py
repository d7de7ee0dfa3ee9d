"""A fuzzer: altered checkpoints, bundles, sessions and requests must end in one line of ours, or change nothing."""
