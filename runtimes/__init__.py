"""Runtimes that turn token ids into logits, and the one generation loop above them."""

from codegen_edge.runtimes.registry import RUNTIMES, open_runtime
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds

__all__ = ["RUNTIMES", "KVCache", "Logits", "Runtime", "TokenIds", "open_runtime"]
