"""Runtimes: token ids and a KV cache in, logits out."""

from codegen_edge.runtimes.registry import RUNTIMES, open_runtime
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds

__all__ = ["RUNTIMES", "KVCache", "Logits", "Runtime", "TokenIds", "open_runtime"]
