"""The one call behind each command, and the public Python API. A workflow's packages are imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codegen_edge.registry import load_part

if TYPE_CHECKING:
    from codegen_edge.workflows.benchmarking import bench
    from codegen_edge.workflows.building import Built, build
    from codegen_edge.workflows.diagnosis import Finding, diagnose
    from codegen_edge.workflows.evaluating import evaluate
    from codegen_edge.workflows.exporting import Exported, export
    from codegen_edge.workflows.listing import Listed, list_bundles
    from codegen_edge.workflows.pushing import Pushed, push
    from codegen_edge.workflows.quantizing import Quantized, quantize
    from codegen_edge.workflows.task_evaluating import evaluate_task
    from codegen_edge.workflows.verifying import Verified, verify

_HOMES = {
    "Built": "building",
    "Exported": "exporting",
    "Finding": "diagnosis",
    "Listed": "listing",
    "Pushed": "pushing",
    "Quantized": "quantizing",
    "Verified": "verifying",
    "bench": "benchmarking",
    "build": "building",
    "diagnose": "diagnosis",
    "evaluate": "evaluating",
    "evaluate_task": "task_evaluating",
    "export": "exporting",
    "list_bundles": "listing",
    "push": "pushing",
    "quantize": "quantizing",
    "verify": "verifying",
}

__all__ = [
    "Built",
    "Exported",
    "Finding",
    "Listed",
    "Pushed",
    "Quantized",
    "Verified",
    "bench",
    "build",
    "diagnose",
    "evaluate",
    "evaluate_task",
    "export",
    "list_bundles",
    "push",
    "quantize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_part(f"{__name__}.{_HOMES[name]}:{name}")
