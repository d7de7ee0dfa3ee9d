"""The one call behind each command, and the public Python API."""
