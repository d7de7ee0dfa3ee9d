"""Schemes and methods by name: what is registered here is in the options, in their help and in the tests.

Importing this needs neither onnx-ir nor numpy, so that help is shown where only a runtime is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codegen_edge.registry import Registry

if TYPE_CHECKING:
    from codegen_edge.quantization.methods import Method
    from codegen_edge.quantization.schemes import Scheme

SCHEMES: Registry[Scheme] = Registry(
    "scheme",
    {
        "int8": "codegen_edge.quantization.schemes.int8:SCHEME",
        "int4": "codegen_edge.quantization.schemes.int4:SCHEME",
        "int8-dynamic": "codegen_edge.quantization.schemes.int8_dynamic:SCHEME",
        "fp16": "codegen_edge.quantization.schemes.fp16:SCHEME",
    },
)

METHODS: Registry[Method] = Registry(
    "method",
    {
        "round": "codegen_edge.quantization.methods.round_to_nearest:prepare",
        "search": "codegen_edge.quantization.methods.scale_search:prepare",
        "gptq": "codegen_edge.quantization.methods.gptq:prepare",
    },
)
