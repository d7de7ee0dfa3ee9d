"""Is a bundle still good: perplexity, and what quantizing did to its distributions."""
