"""What the engine is given, and what it gives back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from codegen_edge.errors import CodegenEdgeError
from codegen_edge.generation import CancelToken, GenerationParams, TextEvent
from codegen_edge.server.engine.scoring import PromptScores

_NUMBERS = itertools.count()


class QueueFullError(CodegenEdgeError):
    """The queue holds as many requests or tokens as it may.

    Args:
        message: how full it is.
        retry_after: seconds until there is likely to be room.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(CodegenEdgeError):
    """The engine takes no new jobs: it ends when those it has are done."""


class EngineDeadError(CodegenEdgeError):
    """The engine's thread has failed; the process must be started anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one client wants: every prompt has `params.n` choices, numbered through all prompts.

    Attributes:
        prompts: token ids of each, none empty.
        params: for all of them.
        prompt_logprobs: None, or how many of the likeliest ids to give beside the log probability of each prompt token.
        is_score_only: whether nothing is to be generated.
        owner: whose prefixes it may use; prompts of others are never looked up.
        client: a newer job of the same client cancels this one; None never.
    """

    prompts: tuple[tuple[int, ...], ...]
    params: GenerationParams
    prompt_logprobs: int | None = None
    is_score_only: bool = False
    owner: str = ""
    client: str | None = None

    def __post_init__(self) -> None:
        assert self.prompt_logprobs is not None or not self.is_score_only, "nothing is wanted"

    @property
    def num_choices(self) -> int:
        """Over all prompts."""
        return len(self.prompts) * self.params.n

    def choices_of(self, prompt: int) -> range:
        """The numbers of a prompt's choices."""
        return range(prompt * self.params.n, (prompt + 1) * self.params.n)

    @property
    def num_prompt_tokens(self) -> int:
        """Over all prompts."""
        return sum(map(len, self.prompts))


@dataclass(frozen=True, slots=True)
class Started:
    """The first prompt of a job has got its slot."""

    num_cached: int  # tokens that need not be read


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a choice, and the text that became certain with it."""

    choice: int
    event: TextEvent


@dataclass(frozen=True, slots=True)
class Scored:
    """The log probabilities of a prompt."""

    prompt: int
    scores: PromptScores


@dataclass(frozen=True, slots=True)
class Failed:
    """A choice, or with None all of the job's that go on, ended with an error."""

    choice: int | None
    error: Exception


Event = Started | Piece | Scored | Failed
Deliver = Callable[[Sequence[tuple["Ticket", Event]]], None]
"""Called by the engine's thread once a step, with all that the step brought."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A job that was taken.

    Attributes:
        job: what is wanted.
        cancel: ends it, in whichever phase it is.
        number: counts the jobs of the process.
        queued_at, started_at, first_token_at, finished_at: of time.monotonic; None until then.
        num_open: choices that are not finished; of a job that is only scored, prompts.
        num_cached: prompt tokens that were not read again.
        num_generated: tokens so far.
    """

    job: Job
    cancel: CancelToken = field(default_factory=CancelToken)
    number: int = field(default_factory=lambda: next(_NUMBERS))
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    num_open: int = 0
    num_cached: int = 0
    num_generated: int = 0

    def __post_init__(self) -> None:
        self.num_open = len(self.job.prompts) if self.job.is_score_only else self.job.num_choices

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be delivered."""
        return self.num_open == 0
