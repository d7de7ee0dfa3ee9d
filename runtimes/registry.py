"""The runtimes by name. Adding a line here is the only edit outside a new backend's file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from codegen_edge import contract
from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes.runtime import Runtime

# What runs a bundle. The reference and the scripted fake run none; they are opened by their classes.
RUNTIMES: dict[str, str] = {
    "cpu": "codegen_edge.runtimes.backends.ort_cpu:open_runtime",
    "static-cpu": "codegen_edge.runtimes.backends.static_cpu:open_runtime",
}

# What computes a target's graph on any machine, and so proves it.
PROVING_RUNTIMES: dict[contract.Target, str] = {"ort": "cpu", "tensorrt": "static-cpu"}


def open_runtime(name: str, bundle: Bundle, *, threads: int | None = None) -> Runtime:
    """Open `bundle` with the runtime that was asked for, and never with another one.

    Args:
        name: a key of RUNTIMES.
        bundle: an opened bundle for text generation.
        threads: CPU threads; None takes all that this process may use.

    Raises:
        InvalidInputError: no runtime has this name.
        RuntimeUnavailableError: the runtime cannot be had on this machine.
    """
    if name not in RUNTIMES:
        raise InvalidInputError(f"there is no runtime {name!r}; there are: {', '.join(RUNTIMES)}")
    module, _, function = RUNTIMES[name].partition(":")
    opener = cast(Callable[..., Runtime], getattr(importlib.import_module(module), function))
    return opener(bundle, threads=threads)
