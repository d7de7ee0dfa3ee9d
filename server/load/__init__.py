"""Load on any OpenAI-compatible completions server: a timing client, closed and open loops, latency percentiles."""
