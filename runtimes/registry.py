"""The runtimes by name. Adding a line here is the only edit outside a new backend's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import InvalidInputError
from codegen_edge.registry import Registry
from codegen_edge.runtimes.runtime import Runtime

# What runs a bundle. The reference and the scripted fake run none; they are opened by their classes.
RUNTIMES: Registry[Callable[..., Runtime]] = Registry(
    "runtime",
    {
        "cpu": "codegen_edge.runtimes.backends.ort_cpu:open_runtime",
        "static-cpu": "codegen_edge.runtimes.backends.static_cpu:open_runtime",
        "openvino": "codegen_edge.runtimes.backends.openvino:open_runtime",
        "cuda": "codegen_edge.runtimes.backends.cuda:open_runtime",
        "tensorrt": "codegen_edge.runtimes.backends.tensorrt:open_runtime",
    },
)

# Those that need a GPU, and what makes their bundles.
BUILT_RUNTIMES = ("cuda", "tensorrt")

# What computes a target's graph on any machine, and so proves it.
PROVING_RUNTIMES: dict[contract.Target, str] = {"ort": "cpu", "tensorrt": "static-cpu"}


def open_runtime(name: str, bundle: Bundle, **options: Any) -> Runtime:
    """Open `bundle` with the runtime that was asked for, and never with another one.

    Args:
        name: a key of RUNTIMES.
        bundle: an opened bundle for text generation.
        **options: of this runtime: `threads` of the CPU ones; `exact_steps` of cpu; `device_id`, `memory_limit_mib`,
            `cuda_graph`, `allow_cpu_nodes` of cuda; `device_id` of tensorrt; `threads` and `device_id` ("CPU", "GPU",
            "NPU") of openvino. None stands for an option that was not given.

    Raises:
        InvalidInputError: no runtime has this name, or this one has no such option.
        RuntimeUnavailableError: the runtime cannot be had on this machine.
    """
    opener = RUNTIMES.find(name)
    given = {option: value for option, value in options.items() if value is not None}
    known = list(inspect.signature(opener).parameters)[1:]
    for option in given:
        if option not in known:
            raise InvalidInputError(f"runtime {name} has no {option}; it has: {', '.join(known)}")
    return opener(bundle, **given)
