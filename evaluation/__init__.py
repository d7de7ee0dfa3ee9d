"""Is a bundle equal to its reference, is it still good, and how fast is it?"""
