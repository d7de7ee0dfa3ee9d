"""The versions that an environment holds, as constraints: python -m benchmarks.constraints PYTHON."""

from __future__ import annotations

import json
import subprocess
import sys

HEAD = "# The versions that CI runs; `make constraints` writes them anew. pyproject.toml keeps the ranges wide."
_NOT_OURS = {"codegen-edge", "pip", "setuptools", "wheel"}


def main(python: str) -> None:
    """Print one line per installed distribution of the environment of `python`."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True).stdout
    print(HEAD)
    for package in sorted(json.loads(listed), key=lambda each: each["name"].lower()):
        if package["name"] not in _NOT_OURS:
            # A local tag ("2.13.0+cpu") is of one machine's wheel.
            print(f"{package['name']}=={package['version'].partition('+')[0]}")


if __name__ == "__main__":
    main(sys.argv[1])
