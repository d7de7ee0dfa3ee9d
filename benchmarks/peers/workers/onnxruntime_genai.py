"""onnxruntime-genai on our bundle, which holds its genai_config.json."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open a bundle as it is, with the number of threads set."""
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(request["model"])
    threads = {"intra_op_num_threads": request["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    model = og.Model(config)

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        params = og.GeneratorParams(model)
        length = len(prompts[0]) + new_tokens
        params.set_search_options(max_length=length, batch_size=len(prompts), do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        for _ in range(new_tokens):
            generator.generate_next_token()
            clock.tick()
        rows = [generator.get_sequence(row).tolist() for row in range(len(prompts))]
        return [row[len(prompts[0]) :] for row in rows]

    return generate


if __name__ == "__main__":
    serve(open_model, ("onnxruntime-genai", "onnxruntime"))
