"""From a bundle that any machine computes to one that is built for a GPU: a graph in half precision, or engines."""

from codegen_edge.runtimes.builders.engines import EngineOptions, build_engines, engine_bindings, is_current
from codegen_edge.runtimes.builders.half import build_half

__all__ = ["EngineOptions", "build_engines", "build_half", "engine_bindings", "is_current"]
