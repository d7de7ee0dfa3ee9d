"""Generate greedily from a bundle with onnxruntime-genai, which reads its genai_config.json.

A job on stdin, one line of JSON on stdout; run.py says what stands in them.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    """Answer the job on stdin."""
    job = json.load(sys.stdin)
    model = og.Model(job["bundle"])
    token_ids = [_generate(model, prompt, job["max_new_tokens"]) for prompt in job["prompts"]]
    versions = {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}
    print(json.dumps({"versions": versions, "token_ids": token_ids}))


def _generate(model: og.Model, prompt: list[int], max_new_tokens: int) -> list[int]:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + max_new_tokens)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    sequence: list[int] = generator.get_sequence(0).tolist()
    return sequence[len(prompt) :]


if __name__ == "__main__":
    main()
