"""codegen-edge: CodeGen checkpoints to ONNX, proved equal to the reference, and run on edge machines.

import codegen_edge
codegen_edge.export("Salesforce/codegen-350M-mono", "my-bundle")
codegen_edge.quantize("my-bundle", "my-int8-bundle", scheme="int8")
with codegen_edge.load_model("my-int8-bundle") as model:
    print(model.generate("def hello_world():", max_new_tokens=32).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codegen_edge.registry import load_part

if TYPE_CHECKING:
    from codegen_edge.bundle import Bundle, open_bundle
    from codegen_edge.errors import CodegenEdgeError
    from codegen_edge.generation.cancel import CancelToken
    from codegen_edge.generation.model import Model, load_model
    from codegen_edge.generation.output import Completion, TextEvent
    from codegen_edge.generation.params import GenerationParams
    from codegen_edge.generation.session import Session
    from codegen_edge.workflows import build, evaluate, evaluate_task, export, list_bundles, push, quantize, verify

    __version__: str

# Imported at first use: `import codegen_edge` loads neither numpy nor a runtime.
_HOMES = {
    "Bundle": "codegen_edge.bundle",
    "CancelToken": "codegen_edge.generation.cancel",
    "CodegenEdgeError": "codegen_edge.errors",
    "Completion": "codegen_edge.generation.output",
    "GenerationParams": "codegen_edge.generation.params",
    "Model": "codegen_edge.generation.model",
    "Session": "codegen_edge.generation.session",
    "TextEvent": "codegen_edge.generation.output",
    "build": "codegen_edge.workflows",
    "evaluate": "codegen_edge.workflows",
    "evaluate_task": "codegen_edge.workflows",
    "export": "codegen_edge.workflows",
    "list_bundles": "codegen_edge.workflows",
    "load_model": "codegen_edge.generation.model",
    "open_bundle": "codegen_edge.bundle",
    "push": "codegen_edge.workflows",
    "quantize": "codegen_edge.workflows",
    "verify": "codegen_edge.workflows",
}

__all__ = [
    "Bundle",
    "CancelToken",
    "CodegenEdgeError",
    "Completion",
    "GenerationParams",
    "Model",
    "Session",
    "TextEvent",
    "__version__",
    "build",
    "evaluate",
    "evaluate_task",
    "export",
    "list_bundles",
    "load_model",
    "open_bundle",
    "push",
    "quantize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # a tenth of a second, in which Ctrl-C would be a traceback

        return metadata.version("codegen-edge")  # stated in pyproject.toml alone
    if name not in _HOMES:
        raise AttributeError(f"module 'codegen_edge' has no attribute {name!r}")
    return load_part(f"{_HOMES[name]}:{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
