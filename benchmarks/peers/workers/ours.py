"""This project's own generation loop; the only worker that imports the project's package."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds, serve


def open_model(request: dict[str, Any]) -> Generate:
    """Open a bundle as `codegen-edge generate` does: every file is hashed."""
    from codegen_edge.generation import GenerationLoop, GenerationParams
    from codegen_edge.generation.model import load_model

    model = load_model(request["model"], runtime="cpu", threads=request["threads"])

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        params = GenerationParams(max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        rows: TokenIds = [[] for _ in prompts]
        for event in GenerationLoop(model.runtime, prompts, params):
            assert event.token_id is not None
            if event.row == 0:
                clock.tick()
            rows[event.row].append(event.token_id)
        return rows

    return generate


if __name__ == "__main__":
    serve(open_model, ("codegen-edge", "onnxruntime"))
