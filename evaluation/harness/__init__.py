"""A bundle as a model of lm-eval (EleutherAI's Language Model Evaluation Harness), without a server.

Importing this package registers the model `codegen-edge` with lm-eval, where lm-eval is installed:

    import codegen_edge.evaluation.harness
    lm_eval.simple_evaluate("codegen-edge", model_args={"bundle": "my-bundle"}, tasks=["my_task"])

lm-eval (0.4.13) asks no package for models: it knows those of its own and those that were registered in its process.
`codegen-edge-lm-eval` and `python -m codegen_edge.evaluation.harness` register the model and run lm-eval's own command
line.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from codegen_edge.dependencies import install_command
from codegen_edge.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from codegen_edge.evaluation.harness.model import CodegenEdgeLM

__all__ = ["CodegenEdgeLM", "require_lm_eval"]


def require_lm_eval() -> None:
    """Raise RuntimeUnavailableError where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise RuntimeUnavailableError(f"lm-eval is not installed: {install_command('lm-eval')}")


def __getattr__(name: str) -> Any:
    if name != "CodegenEdgeLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_lm_eval()
    from codegen_edge.evaluation.harness.model import CodegenEdgeLM

    return CodegenEdgeLM


if find_spec("lm_eval") is not None:
    import codegen_edge.evaluation.harness.model  # noqa: F401 - registers
