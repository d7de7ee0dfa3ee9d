"""How an engine is set, and what it is doing."""

from __future__ import annotations

from dataclasses import dataclass

from codegen_edge.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine shares one runtime.

    Attributes:
        slots: rows that decode at the same time.
        max_queued: jobs that wait, at most.
        max_queued_tokens: prompt tokens of the jobs that wait, at most.
        max_step_seconds: about how long a step may take where prompts are read beside rows that decode.
        prefix_bytes: memory for prompts that are kept; 0 keeps none.
        bytes_per_token: of keys and values.
        is_drafting: whether prompt lookup drafts for a row that is alone.
    """

    slots: int
    max_queued: int = 32
    max_queued_tokens: int = 65_536
    max_step_seconds: float = 0.1
    prefix_bytes: int = 0
    bytes_per_token: int = 1
    is_drafting: bool = False

    def __post_init__(self) -> None:
        for name in ("slots", "max_queued", "max_queued_tokens"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.max_step_seconds <= 60:
            raise InvalidInputError(f"max_step_seconds must be above 0 and at most 60, got {self.max_step_seconds}")
        if self.prefix_bytes < 0:
            raise InvalidInputError(f"prefix_bytes must be at least 0, got {self.prefix_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What an engine is doing.

    Attributes:
        running: jobs that have slots, or whose prompts are scored.
        waiting: jobs in the queue.
        waiting_tokens: of their prompts.
        slots: in all.
        free_slots: of them.
        prefix_bytes: of prompts that are kept.
        prefix_queried, prefix_hits: prompt tokens that were looked up, and found.
        drafted, accepted: tokens of speculation.
        seconds_since_beat: since the thread last showed that it is alive.
        is_alive: whether it runs.
        has_failed: whether its thread ended with an error; only a new process helps.
        is_draining: whether new jobs are refused.
    """

    running: int
    waiting: int
    waiting_tokens: int
    slots: int
    free_slots: int
    prefix_bytes: int
    prefix_queried: int
    prefix_hits: int
    drafted: int
    accepted: int
    seconds_since_beat: float
    is_alive: bool
    has_failed: bool
    is_draining: bool
