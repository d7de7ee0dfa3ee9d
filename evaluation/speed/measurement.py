"""What one process measured of one bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLimits:
    """What the machine could do right after a bundle was measured, in the same process and with as many threads.

    Attributes:
        read_bytes: per second, by way of reading.
        multiplications: per second, by label of the kind of product.
        buffer_bytes: how much was read in a pass.
    """

    read_bytes: Mapping[str, float]
    multiplications: Mapping[str, float]
    buffer_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One bundle, once, in a process of its own.

    Attributes:
        pid: of the process.
        import_s: importing the runtime's packages.
        open_s: opening the bundle: its files are hashed, the tokenizer is read, the graph is opened.
        cold_start_s: from the start of the process to the first token of the prompt.
        peak_rss_bytes: the most memory that the process had, mapped files included; 0 where the system does not say.
        prefill_s: reading the prompts again, warm.
        first_token_s: the same with the choice of the first token.
        steps_s: of each decode step.
        limits: of the machine; None where they were not measured.
    """

    pid: int
    import_s: float
    open_s: float
    cold_start_s: float
    peak_rss_bytes: int
    prefill_s: float
    first_token_s: float
    steps_s: tuple[float, ...]
    limits: MeasuredLimits | None

    @property
    def step_s(self) -> float:
        """Of a decode step, on average: what throughput is made of."""
        return sum(self.steps_s) / len(self.steps_s)

    def figures(self) -> dict[str, float]:
        """What rounds compare; the smaller the better. Without the memory where the system does not say."""
        memory = {"peak_rss_bytes": float(self.peak_rss_bytes)} if self.peak_rss_bytes else {}
        return {
            "load_s": self.import_s + self.open_s,
            "cold_start_s": self.cold_start_s,
            "first_token_s": self.first_token_s,
            "prefill_s": self.prefill_s,
            "step_s": self.step_s,
            **memory,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
