"""Which of several bundles to take on this machine, and why; or that the machine was too noisy to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.speed.results import SpeedResult
from codegen_edge.evaluation.speed.timing import Spread, is_difference

# Beyond these a figure decides nothing. On a quiet machine a bundle differs from itself by a few hundredths.
MOST_NOISE = 0.2  # of the first bundle against itself
LEAST_DIFFERENCE = 0.02  # a smaller one is none, however sure it is: nobody chooses a bundle by it
MOST_SPREAD = 1.5  # of a bundle's slowest round over its fastest
BUSY_SHARE = 0.5  # load average per core before the run from which on a neighbour is named
WAITING_SHARE = 0.2  # of the run in which some program waited for a processor

# In the order in which they decide.
_FIGURES = {"decode": "step_s", "prefill": "prefill_s", "memory": "peak_rss_bytes"}
_ADJECTIVES = {"decode": "fastest decode", "prefill": "fastest prefill", "memory": "least memory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The best bundle by one figure beside another one.

    Attributes:
        figure: "decode", "prefill" or "memory".
        best: label of the bundle with the best median.
        other: label of the other one.
        ratio: how many times as good the best one is, by round.
        is_different: whether that is more than noise.
    """

    figure: str
    best: str
    other: str
    ratio: Spread
    is_different: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which bundle to take.

    Attributes:
        take: its label, or None where the machine was too noisy.
        why: in words.
        comparisons: by figure, the best one beside each other one.
        noise: by figure, the noise bound.
        too_noisy: by figure that decides nothing, why.
        surroundings: what else the machine did, in words; empty where it was quiet.
    """

    take: str | None
    why: str
    comparisons: tuple[Comparison, ...]
    noise: dict[str, float]
    too_noisy: dict[str, str]
    surroundings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge(result: SpeedResult) -> Verdict:
    """Decide by decode, then by prefill among those whose decode does not differ, then by memory.

    Raises:
        InvalidInputError: the run had one bundle only.
    """
    if len(result.bundles) < 2:
        raise InvalidInputError("a comparison needs at least two bundles, got 1")
    figures = {name: key for name, key in _FIGURES.items() if key in result.rounds.again}
    noise = {name: result.rounds.noise(key) for name, key in figures.items()}
    too_noisy = {name: why for name, key in figures.items() if (why := _noisy(result, key, noise[name]))}
    comparisons: list[Comparison] = []
    candidates = [each.label for each in result.bundles]
    decided: list[str] = []  # the figures that took a bundle out
    take: str | None = None if "decode" in too_noisy else candidates[0]
    for name, key in figures.items():
        of_all = _compared(result, name, key, noise[name], [each.label for each in result.bundles])
        comparisons += of_all
        if name in too_noisy or take is None:
            continue
        among = _compared(result, name, key, noise[name], candidates)
        best = among[0].best if among else candidates[0]
        left = [best, *(each.other for each in among if not each.is_different)]
        if len(left) < len(candidates):
            decided.append(name)
        candidates = [label for label in candidates if label in left]
        take = best
    return Verdict(
        take=take,
        why=_reason(take, decided, candidates, too_noisy),
        comparisons=tuple(comparisons),
        noise=noise,
        too_noisy=too_noisy,
        surroundings=tuple(surroundings_of(result)),
    )


def _compared(result: SpeedResult, name: str, key: str, noise: float, labels: Sequence[str]) -> list[Comparison]:
    """The best of some bundles beside the others of them."""
    best = min(labels, key=lambda label: result.rounds.spread(label, key).median)
    found = []
    for other in labels:
        if other != best:
            ratio = result.rounds.ratio(best, key, base=other)
            different = is_difference(ratio, max(noise, LEAST_DIFFERENCE))
            found.append(Comparison(figure=name, best=best, other=other, ratio=ratio, is_different=different))
    return found


def _noisy(result: SpeedResult, key: str, noise: float) -> str:
    """Why a figure decides nothing; "" where it does."""
    if noise > MOST_NOISE:
        return f"{result.bundles[0].label} differed from itself by {noise:.0%}"
    for each in result.bundles:
        spread = result.rounds.spread(each.label, key)
        if spread.high > MOST_SPREAD * spread.low:
            return f"the slowest round of {each.label} took {spread.high / spread.low:.1f} times as long as the fastest"
    return ""


def surroundings_of(result: SpeedResult) -> list[str]:
    """What else the machine did, one phrase each; none where it was quiet, or does not say."""
    found, load = [], result.load
    cores = result.machine["cores"] or 1
    if load.average_before is not None and load.average_before > BUSY_SHARE * cores:
        found.append(f"load average {load.average_before:.1f} on {cores} cores before the run")
    if load.waiting is not None and load.waiting > WAITING_SHARE:
        found.append(f"some program waited for a processor in {load.waiting:.0%} of the time")
    return found


def _reason(take: str | None, decided: Sequence[str], candidates: Sequence[str], too_noisy: dict[str, str]) -> str:
    if take is None:
        return f"the machine is too noisy: {too_noisy['decode']}"
    skipped = "".join(f"; {name} was too noisy to decide" for name in too_noisy)
    if not decided:
        return f"no difference in {' or '.join(_FIGURES)}{skipped}"
    reasons = [_ADJECTIVES[decided[0]], *(f"of those alike, {_ADJECTIVES[name]}" for name in decided[1:])]
    alike = [label for label in candidates if label != take]
    same = f"; no difference to {', '.join(alike)}" if alike else ""
    return "; ".join(reasons) + same + skipped
