"""`codegen-edge --version`: ours, and those of the libraries that decide what it can do."""

from __future__ import annotations

import platform
from typing import Any

import click

# In the order in which a bundle meets them.
_LIBRARIES = (
    *("onnxruntime", "tokenizers", "numpy", "torch", "transformers", "onnx-ir", "onnxscript"),
    *("tensorrt-cu13", "tensorrt-rtx-cu13-libs", "openvino", "llguidance", "onnxruntime-genai"),
)


def print_versions(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Print them and end; a library that is not installed is left out."""
    if not value or ctx.resilient_parsing:
        return
    from codegen_edge.dependencies import PROJECT, package_versions

    click.echo(f"{PROJECT} {package_versions(PROJECT)[PROJECT]}")
    found = {"python": platform.python_version()} | package_versions(*_LIBRARIES)
    click.echo(", ".join(f"{name} {version}" for name, version in found.items()))
    ctx.exit()
