"""One row of a batch: its tokens, its choice of the next one, and why it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.sampling import TokenChooser


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one row.

    Attributes:
        row: number of the row, as `add` gave it.
        token_id: the token that was chosen; None where the row ended without one: its deadline passed before the
            prompt was read, or it was cancelled.
        step: 0 for the token that prefill gives, then 1, 2, …
        finish_reason: set on a row's last event, unless the caller ended the row with `finish`.
        logprob: log probability of the token in the model's own distribution, where asked for.
        top_logprobs: the likeliest ids and their log probabilities, where asked for.
        seconds: since the row was added.
    """

    row: int
    token_id: int | None
    step: int
    finish_reason: FinishReason | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Row:
    """A row that decodes.

    Attributes:
        number: as `add` gave it.
        params: of its request.
        prompt_length: tokens of the prompt.
        ids: prompt and new tokens; the cache holds all but the last new one.
        chooser: chooses its tokens.
        started_at: of time.monotonic.
        logits: [1 + drafted, V] after what was fed last; empty when a token was chosen after each.
        cancel: ends this row alone, or None.
        draft: tokens that were fed behind the last one.
        is_finished: it gets no further tokens.
    """

    number: int
    params: GenerationParams
    prompt_length: int
    ids: list[int]
    chooser: TokenChooser
    started_at: float
    logits: NDArray[np.float32]
    cancel: CancelToken | None = None
    draft: list[int] = field(default_factory=list)
    is_finished: bool = False

    @property
    def num_new(self) -> int:
        """New tokens so far."""
        return len(self.ids) - self.prompt_length

    def choose(self, logits: NDArray[np.float32], config: ModelConfig, capacity: int) -> TokenEvent:
        """Choose the next token from logits [V] and append it."""
        step = self.num_new
        chosen = self.chooser.choose(logits, self.ids)
        self.ids.append(chosen.token_id)
        now = time.monotonic()
        reason = self._reason(chosen.token_id, now, config, capacity)
        self.is_finished = self.is_finished or reason is not None
        return TokenEvent(
            row=self.number,
            token_id=chosen.token_id,
            step=step,
            finish_reason=reason,
            logprob=chosen.logprob,
            top_logprobs=chosen.top_logprobs,
            seconds=now - self.started_at,
        )

    def cancelled(self) -> TokenEvent:
        """End the row without a token."""
        self.is_finished = True
        return ended_event(self.number, self.num_new, "cancelled", self.started_at)

    def _reason(self, token_id: int, now: float, config: ModelConfig, capacity: int) -> FinishReason | None:
        if token_id == config.eos_token_id or token_id in self.params.stop_ids:
            return "end_of_text" if token_id == config.eos_token_id else "stop_id"
        if self.chooser.is_complete(self.ids):
            return "stop"
        if self.num_new == self.params.max_new_tokens:
            return "length"
        if len(self.ids) >= config.context_length or len(self.ids) > capacity:
            return "context"
        if self.params.max_seconds is not None and now >= self.started_at + self.params.max_seconds:
            return "deadline"
        return None


def ended_event(row: int, step: int, reason: FinishReason, started_at: float) -> TokenEvent:
    """The event of a row that ends without a token."""
    return TokenEvent(row=row, token_id=None, step=step, finish_reason=reason, seconds=time.monotonic() - started_at)
