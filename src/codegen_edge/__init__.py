"""codegen-edge: CodeGen checkpoints to ONNX, proved equal to the reference, and run on edge machines.

from codegen_edge import load_model
with load_model("bundle", runtime="cpu") as model:
    print(model.generate("def hello_world():", max_new_tokens=32).text)
"""

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.errors import CodegenEdgeError
from codegen_edge.model import Completion, Model, load_model
from codegen_edge.runtimes.generation import CancelToken, GenerationParams
from codegen_edge.session import Session

__version__ = "0.1.0"

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
