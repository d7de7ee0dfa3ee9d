"""The tables of README and docs, from committed results; `python -m benchmarks.report` writes them."""
