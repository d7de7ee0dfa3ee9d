"""codegen-edge: CodeGen checkpoints to ONNX, proved equal to the reference, and run on edge machines.

from codegen_edge import load_model
with load_model("bundle", runtime="cpu") as model:
    print(model.generate("def hello_world():", max_new_tokens=32).text)
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codegen_edge.bundle import Bundle, open_bundle
    from codegen_edge.errors import CodegenEdgeError
    from codegen_edge.generation import CancelToken, GenerationParams
    from codegen_edge.generation.model import Completion, Model, load_model
    from codegen_edge.generation.session import Session

    __version__: str

# Imported at first use: `import codegen_edge` loads neither numpy nor a runtime.
_HOMES = {
    "Bundle": "codegen_edge.bundle",
    "CancelToken": "codegen_edge.generation",
    "CodegenEdgeError": "codegen_edge.errors",
    "Completion": "codegen_edge.generation.model",
    "GenerationParams": "codegen_edge.generation",
    "Model": "codegen_edge.generation.model",
    "Session": "codegen_edge.generation.session",
    "load_model": "codegen_edge.generation.model",
    "open_bundle": "codegen_edge.bundle",
}

__all__ = [
    "Bundle",
    "CancelToken",
    "CodegenEdgeError",
    "Completion",
    "GenerationParams",
    "Model",
    "Session",
    "__version__",
    "load_model",
    "open_bundle",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("codegen-edge")  # stated in pyproject.toml alone
    if name not in _HOMES:
        raise AttributeError(f"module 'codegen_edge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
