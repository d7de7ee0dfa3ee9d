"""One-line completions of the held-out standard library: a task that the shipped checkpoint can do."""
