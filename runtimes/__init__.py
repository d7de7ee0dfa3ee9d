"""Runtimes: token ids and a KV cache in, logits out."""

from codegen_edge.runtimes.registry import RUNTIMES, open_runtime
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds
from codegen_edge.runtimes.step_input import check_logits, check_step

__all__ = ["RUNTIMES", "KVCache", "Logits", "Runtime", "TokenIds", "check_logits", "check_step", "open_runtime"]
