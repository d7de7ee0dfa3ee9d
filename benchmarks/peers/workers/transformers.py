"""transformers on torch: eager or compiled, float32 or bfloat16."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.huggingface import generate_with
from benchmarks.peers.workers.protocol import Generate, serve

_CAPACITY = 256  # of the compiled form's cache, for the short prompts that it is measured with
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def open_model(request: dict[str, Any]) -> Generate:
    """Open a checkpoint; "compiled" compiles the decode step, with a cache of fixed size, as that needs."""
    import torch
    from transformers import AutoModelForCausalLM, StaticCache

    torch.set_num_threads(request["threads"])
    dtype = getattr(torch, _DTYPES[request["precision"]])
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=dtype).eval()
    if not request.get("is_compiled"):
        return generate_with(model)
    eager, compiled = model.forward, torch.compile(model.forward, dynamic=False)

    def forward(input_ids: Any, **inputs: Any) -> Any:
        step = compiled if input_ids.shape[1] == 1 else eager
        return step(input_ids, **inputs)

    model.forward = forward
    # One capacity for all calls: another one is compiled anew.
    return generate_with(model, cache=lambda: StaticCache(model.config, max_cache_len=_CAPACITY))


if __name__ == "__main__":
    serve(open_model, ("transformers", "torch"))
