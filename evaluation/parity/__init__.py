"""Is a bundle equal to its reference?"""
