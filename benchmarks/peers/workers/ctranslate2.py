"""CTranslate2's Generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds, serve

_COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}


def open_model(request: dict[str, Any]) -> Generate:
    """Open a folder that ct2-transformers-converter wrote."""
    import ctranslate2  # type: ignore[import-not-found]

    folder = Path(request["model"])
    tokens: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    generator = ctranslate2.Generator(
        str(folder),
        device="cpu",
        compute_type=_COMPUTE_TYPES[request["precision"]],
        inter_threads=1,
        intra_threads=request["threads"],
    )

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        def on_token(step: Any) -> bool:
            if step.batch_id == 0:
                clock.tick()
            return False  # True would end the row

        found = generator.generate_batch(
            [[tokens[token_id] for token_id in row] for row in prompts],
            beam_size=1,
            sampling_topk=1,
            min_length=new_tokens,
            max_length=new_tokens,
            include_prompt_in_result=False,
            callback=on_token,
        )
        return [list(each.sequences_ids[0]) for each in found]

    return generate


if __name__ == "__main__":
    serve(open_model, ("ctranslate2", "transformers"))
