"""What transformers, optimum-onnx and optimum-intel share: `generate` of transformers, timed by a streamer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.workers.protocol import Clock, Generate, TokenIds


def generate_with(model: Any, cache: Callable[[], Any] = lambda: None) -> Generate:
    """A model with transformers' `generate`.

    Args:
        model: opened.
        cache: makes the empty cache of a call; None is the model's own kind.
    """
    import torch

    model.generation_config.eos_token_id = None  # nothing ends before all tokens are there

    def generate(prompts: TokenIds, new_tokens: int, clock: Clock) -> TokenIds:
        input_ids, own = torch.tensor(prompts), cache()
        sequences = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            streamer=_Ticker(clock),
            **({} if own is None else {"past_key_values": own}),
        )
        token_ids: TokenIds = sequences[:, len(prompts[0]) :].tolist()
        return token_ids

    return generate


class _Ticker:
    """What `generate` calls a streamer: it is given the prompt, then each step's tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._has_prompt = False

    def put(self, _: Any) -> None:
        """Called with the tokens of all rows."""
        if self._has_prompt:
            self._clock.tick()
        self._has_prompt = True

    def end(self) -> None:
        """Called at the end."""
