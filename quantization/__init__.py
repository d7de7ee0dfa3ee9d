"""Quantization of bundles: bundle in, smaller bundle out, one scheme a file. No scheme is registered yet."""
