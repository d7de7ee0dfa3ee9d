"""OpenVINO through openvino-genai, which needs no torch."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.openvino_options import properties
from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open the same folder that optimum-intel opens."""
    import numpy as np
    import openvino
    import openvino_genai  # type: ignore[import-not-found]

    chosen = properties(request["precision"], request["threads"])
    pipeline = openvino_genai.LLMPipeline(request["model"], "CPU", **chosen)

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        config = openvino_genai.GenerationConfig()
        config.do_sample = False
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        found = pipeline.generate(inputs, config)
        # By its own account: a streamer would be for one row only, and its durations are divided by the rows.
        raw = found.perf_metrics.raw_metrics
        first = clock.started_at + raw.m_times_to_first_token[0] / 1e6
        came_ms = list(raw.m_new_token_times)
        clock.ticks.extend(first + (each - came_ms[0]) / 1e3 for each in came_ms)
        return [list(row) for row in found.tokens]

    return generate


if __name__ == "__main__":
    serve(open_model, ("openvino-genai", "openvino", "openvino-tokenizers"))
