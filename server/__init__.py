"""Serving bundles over HTTP, and putting load on servers."""
