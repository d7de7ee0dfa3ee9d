"""What a run found out: figures with their range, and their share of what the machine can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from codegen_edge.evaluation.speed.kinds import ProductKind
from codegen_edge.evaluation.speed.measurement import MeasuredLimits, Measurement
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.surroundings import Load
from codegen_edge.evaluation.speed.timing import Rounds, Spread, percentile

if TYPE_CHECKING:  # it needs onnx-ir, which may be missing
    from codegen_edge.evaluation.speed.counting import GraphWork

FORMAT_VERSION = 1
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the machine could do, over all processes of a run; the limit is the best of them.

    Attributes:
        read_bytes: per second, by way of reading.
        multiplications: per second, by label of the kind of product.
        buffer_bytes: how much was read in a pass.
    """

    read_bytes: Mapping[str, Spread]
    multiplications: Mapping[str, Spread]
    buffer_bytes: int

    @classmethod
    def of(cls, measured: Sequence[MeasuredLimits]) -> Limits:
        """Put the limits of at least one process together."""

        def spreads(columns: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
            labels = dict.fromkeys(label for each in columns for label in each)
            return {label: Spread.of([each[label] for each in columns if label in each]) for label in labels}

        return cls(
            read_bytes=spreads([each.read_bytes for each in measured]),
            multiplications=spreads([each.multiplications for each in measured]),
            buffer_bytes=measured[0].buffer_bytes,
        )

    @property
    def bandwidth(self) -> float:
        """Bytes per second, by the faster way of reading."""
        return max(spread.high for spread in self.read_bytes.values())

    def least_seconds(self, multiplications: Mapping[ProductKind, float]) -> float:
        """The time of multiplications, each kind by its own product."""
        return sum(count / self.multiplications[kind.label].high for kind, count in multiplications.items())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"bandwidth": self.bandwidth, **_plain(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """What a bundle must do, and how near it comes to the machine's limits; shares are of 1.

    Attributes:
        decode_bytes: read by a decode step, on average: weights, and the cache of all rows.
        decode_multiplications: of a decode step, on average.
        prefill_bytes: read by a prefill.
        prefill_multiplications: of a prefill.
        decode_of_memory: least time to read a step's bytes, over its time.
        decode_of_products: least time to multiply, each kind of product at its own limit, over a step's time.
        prefill_of_memory: the same of a prefill.
        prefill_of_products: the same of a prefill.
        prefill_of_fastest: least time to multiply if all products were as fast as the fastest kind that was measured
            for the bundle, over its time.
        is_cached: whether the weights fit the processor's cache; memory is not the limit then.
    """

    decode_bytes: float
    decode_multiplications: float
    prefill_bytes: float
    prefill_multiplications: float
    decode_of_memory: Spread
    decode_of_products: Spread
    prefill_of_memory: Spread
    prefill_of_products: Spread
    prefill_of_fastest: Spread
    is_cached: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return _plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpeed:
    """One bundle's figures.

    Attributes:
        label: its folder's name, or its path where two folders have one name.
        precision: how its weights are stored.
        file_bytes: of all its files.
        import_s: importing the runtime's packages.
        open_s: opening the bundle.
        load_s: both.
        cold_start_s: from the start of a process to the first token, with the files in the page cache.
        peak_rss_bytes: the most memory of the process; None where the system does not say.
        first_token_s: time to first token of a warm process.
        prefill_tokens_per_second: prompt tokens of all rows.
        decode_tokens_per_second: new tokens of all rows, without the first of each.
        step_ms: "p50", "p90" and "p99" of the decode steps of all rounds.
        roofline: None where limits were not measured.
        rounds: all that was measured.
    """

    label: str
    precision: str
    file_bytes: int
    import_s: Spread
    open_s: Spread
    load_s: Spread
    cold_start_s: Spread
    peak_rss_bytes: Spread | None
    first_token_s: Spread
    prefill_tokens_per_second: Spread
    decode_tokens_per_second: Spread
    step_ms: Mapping[str, float]
    roofline: Roofline | None
    rounds: tuple[Measurement, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: value for name, value in _plain(self).items() if name not in ("rounds", "roofline")}
        return {
            **fields,
            "roofline": None if self.roofline is None else self.roofline.to_dict(),
            "rounds": [each.to_dict() for each in self.rounds],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedResult:
    """One run over one or more bundles.

    Attributes:
        settings: the workload.
        machine: what it was measured on.
        load: how busy it was.
        bundles: in the order in which they were given.
        again: the first bundle's second measurements; none with one bundle.
        rounds: what ratios are made of.
        limits: of the machine; None where they were not measured.
        no_roofline: why they were not, or "".
    """

    settings: SpeedSettings
    machine: Mapping[str, Any]
    load: Load
    bundles: tuple[BundleSpeed, ...]
    again: tuple[Measurement, ...]
    rounds: Rounds
    limits: Limits | None
    no_roofline: str

    @property
    def noise(self) -> dict[str, float]:
        """By figure: by how much the first bundle differed from itself; empty with one bundle."""
        return {figure: self.rounds.noise(figure) for figure in self.rounds.again}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything, every round too."""
        return {
            "format_version": FORMAT_VERSION,
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
            "load": asdict(self.load),
            "limits": None if self.limits is None else self.limits.to_dict(),
            "no_roofline": self.no_roofline,
            "bundles": [each.to_dict() for each in self.bundles],
            "again": [each.to_dict() for each in self.again],
            "noise": {figure: round(bound, _DIGITS) for figure, bound in self.noise.items()},
        }


def bundle_speed(
    label: str,
    precision: str,
    file_bytes: int,
    rounds: Sequence[Measurement],
    settings: SpeedSettings,
    roofline: Roofline | None,
) -> BundleSpeed:
    """Put a bundle's rounds together."""

    def spread(figure: Callable[[Measurement], float]) -> Spread:
        return Spread.of([figure(each) for each in rounds])

    steps_ms = [1000 * seconds for each in rounds for seconds in each.steps_s]
    prompt_tokens = settings.batch * settings.prompt_tokens
    return BundleSpeed(
        label=label,
        precision=precision,
        file_bytes=file_bytes,
        import_s=spread(lambda each: each.import_s),
        open_s=spread(lambda each: each.open_s),
        load_s=spread(lambda each: each.import_s + each.open_s),
        cold_start_s=spread(lambda each: each.cold_start_s),
        peak_rss_bytes=spread(lambda each: each.peak_rss_bytes)
        if all(each.peak_rss_bytes for each in rounds)
        else None,
        first_token_s=spread(lambda each: each.first_token_s),
        prefill_tokens_per_second=spread(lambda each: prompt_tokens / each.prefill_s),
        decode_tokens_per_second=spread(lambda each: settings.batch / each.step_s),
        step_ms={f"p{share}": percentile(steps_ms, share / 100) for share in (50, 90, 99)},
        roofline=roofline,
        rounds=tuple(rounds),
    )


def roofline_of(
    work: GraphWork,
    rounds: Sequence[Measurement],
    limits: Limits,
    settings: SpeedSettings,
    *,
    chunk: int,
    cache_bytes: int | None,
) -> Roofline:
    """Compare what was measured with what the machine could do.

    Args:
        work: of the bundle's graph.
        rounds: of the bundle.
        limits: of the whole run.
        settings: the workload.
        chunk: most prompt tokens in one step.
        cache_bytes: the processor's largest cache, where it is known.
    """
    shape = (settings.batch, settings.prompt_tokens)
    decode_bytes = work.decode_bytes(*shape, settings.new_tokens)
    decode_products = work.decode_multiplications(*shape, settings.new_tokens)
    prefill_bytes = work.prefill_bytes(*shape, chunk)
    prefill_products = work.prefill_multiplications(*shape, chunk)
    fastest = max(limits.multiplications[kind.label].high for kind in work.kinds)

    def of_decode(least_seconds: float) -> Spread:
        return Spread.of([least_seconds / each.step_s for each in rounds])

    def of_prefill(least_seconds: float) -> Spread:
        return Spread.of([least_seconds / each.prefill_s for each in rounds])

    return Roofline(
        decode_bytes=decode_bytes,
        decode_multiplications=sum(decode_products.values()),
        prefill_bytes=prefill_bytes,
        prefill_multiplications=sum(prefill_products.values()),
        decode_of_memory=of_decode(decode_bytes / limits.bandwidth),
        decode_of_products=of_decode(limits.least_seconds(decode_products)),
        prefill_of_memory=of_prefill(prefill_bytes / limits.bandwidth),
        prefill_of_products=of_prefill(limits.least_seconds(prefill_products)),
        prefill_of_fastest=of_prefill(sum(prefill_products.values()) / fastest),
        is_cached=cache_bytes is not None and work.weight_bytes < cache_bytes,
    )


def _plain(of: Limits | Roofline | BundleSpeed) -> dict[str, Any]:
    """Fields for JSON, with spreads as objects."""
    found = {name: getattr(of, name) for name in type(of).__slots__}
    return {name: _value(value) for name, value in found.items()}


def _value(value: Any) -> Any:
    if isinstance(value, Spread):
        return value.to_dict(_DIGITS)
    if isinstance(value, Mapping):
        return {key: _value(each) for key, each in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
