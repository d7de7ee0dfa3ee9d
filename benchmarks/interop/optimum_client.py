"""Generate greedily from a bundle with optimum-onnx's ORTModelForCausalLM.

A job on stdin, one line of JSON on stdout; run.py says what stands in them. optimum-onnx wants an older
transformers than the exporter, so this program runs in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import torch
from optimum.onnxruntime import ORTModelForCausalLM  # type: ignore[import-not-found]


def main() -> None:
    """Answer the job on stdin."""
    job = json.load(sys.stdin)
    model = ORTModelForCausalLM.from_pretrained(job["bundle"])
    token_ids = [_generate(model, prompt, job["max_new_tokens"]) for prompt in job["prompts"]]
    packages = ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch")
    print(json.dumps({"versions": {name: version(name) for name in packages}, "token_ids": token_ids}))


def _generate(model: ORTModelForCausalLM, prompt: list[int], max_new_tokens: int) -> list[int]:
    input_ids = torch.tensor([prompt])
    sequences = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=max_new_tokens
    )
    new_token_ids: list[int] = sequences[0, len(prompt) :].tolist()
    return new_token_ids


if __name__ == "__main__":
    main()
