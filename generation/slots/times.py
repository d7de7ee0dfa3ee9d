"""How long a slice of a prompt may be beside rows that decode."""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_SLICE = 8  # tokens of prompts in a step, at least: a waiting prompt always gets on
# A step that takes a slice along may take so many times as long as one without, or this share of its time at least: a
# single row that decodes would otherwise hold up many prompts.
_SLOWED, _SHARE = 2.0, 0.7
_MEMORY = 0.7  # share of an average that one more observation leaves


@dataclass(slots=True)
class StepTimes:
    """What steps cost, from those so far: one without prompts, and a prompt's token in one.

    Attributes:
        plain: seconds of a step of the rows that decode; None before the first.
        per_token: seconds that a prompt's token adds beside rows that decode; None before the first slice there.
        per_token_alone: seconds of a prompt's token where nobody decodes; slices are large there, and cheaper.
    """

    plain: float | None = None
    per_token: float | None = None
    per_token_alone: float | None = None

    def record(self, num_decoding: int, num_read: int, seconds: float) -> None:
        """A step of so many rows that decode and so many tokens of prompts took so long."""
        if not num_read:
            self.plain = _average(self.plain, seconds)
        elif num_decoding:
            self.per_token = _average(self.per_token, max(seconds - (self.plain or 0.0), 1e-6) / num_read)
        else:
            self.per_token_alone = _average(self.per_token_alone, seconds / num_read)

    def slice(self, num_decoding: int, seconds: float, most: int) -> int:
        """Tokens of prompts for a step of about `seconds`; with rows that decode, which it may slow down so far."""
        per_token = self.per_token if num_decoding else self.per_token_alone
        if per_token is None:
            return min(_LEAST_SLICE, most)
        room = seconds
        if num_decoding and self.plain is not None:
            room = min(seconds, max(_SLOWED * self.plain, _SHARE * seconds)) - self.plain
        return max(min(_LEAST_SLICE, most), min(most, int(room / per_token)))


def _average(known: float | None, latest: float) -> float:
    return latest if known is None else known * _MEMORY + latest * (1 - _MEMORY)
