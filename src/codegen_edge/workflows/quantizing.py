"""Float bundle to a smaller one, with the damage measured on held-out programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.bundle.processors import processor_for
from codegen_edge.bundle.storage import check_target
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.damage import Damage, damage_line, measure_damage
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.registry import PROVING_RUNTIMES
from codegen_edge.tokenizer import Tokenizer
from codegen_edge.workflows.packages import require_quantize_packages
from codegen_edge.workflows.progress import OnStage, silent
from codegen_edge.workflows.quantize_checks import check_effect, require_other_folder, warn_of_short_text

if TYPE_CHECKING:  # what it imports is asked for by name first
    from codegen_edge.quantization import QuantizationReport

DEFAULT_MEASURE_TOKENS = 8_192  # spread over all held-out programs; more take their time and narrow the interval

OnWarning = Callable[[str], None]
"""Called with what a user should know before the work is done, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What `quantize` made.

    Attributes:
        source: the float bundle.
        bundle: at its place.
        report: what was done to every matrix and to the whole model.
    """

    source: Bundle
    bundle: Bundle
    report: QuantizationReport

    @property
    def summary(self) -> str:
        """What it did to the model, in a line."""
        return damage_line(self.report.damage)


def quantize(
    bundle: str | Path | Bundle,
    out: str | Path,
    *,
    scheme: str,
    method: str | None = None,
    block_size: int | None = None,
    is_symmetric: bool | None = None,
    kept_at_8_bits: frozenset[str] | None = None,
    kv_cache: contract.KVPrecision = "float",
    processor: str | None = None,
    calibration: Sequence[str] = (),
    budget_kl: float | None = None,
    measure_tokens: int | None = DEFAULT_MEASURE_TOKENS,
    overwrite: bool = False,
    on_stage: OnStage = silent,
    on_warning: OnWarning = lambda _: None,
) -> Quantized:
    """Quantize a float32 bundle and measure what that did to the model.

    Args:
        bundle: fp32; its folder, or opened.
        out: the new bundle's folder; it appears whole or not at all.
        scheme: "int8", "int4", "int8-dynamic", "fp16", or a registered one.
        method: how the codes of int4 are chosen: "round", "search" or "gptq"; None takes gptq.
        block_size: weights of a row that share a scale; None takes the scheme's own.
        is_symmetric: False stores a zero point for each block; None takes the scheme's own.
        kept_at_8_bits: names of matrices that int4 keeps at 8 bits; None keeps the LM head.
        kv_cache: "float", or "int8" for a cache of a quarter of the size.
        processor: "auto" (this machine's), "avx512-vnni", "avx2", "arm64" or "any": which processors int8-dynamic is
            made for. None makes a bundle that runs on any. One for avx512-vnni is faster there and refused elsewhere.
        calibration: texts to calibrate with; empty takes the programs that ship.
        budget_kl: keep as few matrices of int4 at 8 bits as hold the mean KL divergence, in nats, at or below this.
        measure_tokens: held-out tokens to compare with `bundle` on, spread over all programs; None takes all of them, 0
            does not compare.
        overwrite: whether a bundle that is there may be replaced; it stays until the new one is whole.
        on_stage: called with the progress.
        on_warning: called with a sentence where the calibration text is too short to be of use.

    Raises:
        InvalidInputError: `out` exists and may not be replaced, or is `bundle` itself; an argument is wrong, or does
            nothing in this scheme; a budget that cannot be met.
        BundleError: `bundle` is quantized already, or of a kind that cannot be.
        IntegrityError: a file of it is missing, truncated or altered.
        NumericsError: a weight is NaN or infinite.
        RuntimeUnavailableError: a package is missing.
        StorageError: the disk is full.
    """
    require_other_folder(bundle, out)
    check_target(Path(out), overwrite=overwrite)
    if measure_tokens is not None and (not isinstance(measure_tokens, int) or measure_tokens < 0):
        raise InvalidInputError(f"measure_tokens must be 0 or more, or None for all, got {measure_tokens!r}")
    if budget_kl is not None and measure_tokens == 0:
        raise InvalidInputError("a budget is measured: give more than 0 tokens to measure on", hint="--measure-tokens")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    require_quantize_packages()
    from codegen_edge.quantization import QuantizeOptions, quantize_bundle
    from codegen_edge.quantization.quantize import DEFAULT_METHOD

    options = QuantizeOptions(
        scheme=scheme,
        method=method or DEFAULT_METHOD,
        block_size=block_size,
        is_symmetric=is_symmetric,
        kept_at_8_bits=kept_at_8_bits,
        kv_cache=kv_cache,
        processor=processor_for(processor or "any"),
        overwrite=overwrite,
    )
    check_effect(
        options,
        method=method,
        calibration=calibration,
        budget_kl=budget_kl,
        processor=processor,
    )
    texts = list(calibration) or [file.text for file in load_corpus("calibration")]
    tokenizer = Tokenizer(opened.tokenizer_path)
    documents = [document_ids(tokenizer, text) for text in texts] if options.needs_calibration else []
    if calibration:
        warn_of_short_text(sum(map(len, documents)), on_warning)

    def measure(candidate: Bundle) -> Damage:
        on_stage("measuring on held-out programs", 0, None)
        return measure_against(opened, candidate, measure_tokens)

    on_stage("reading", 0, None)
    if budget_kl is not None:
        from codegen_edge.workflows.budget import quantize_within_budget

        made, report = quantize_within_budget(
            opened,
            out,
            options,
            budget_kl,
            calibration_texts=texts,
            measure=measure,
            on_stage=lambda stage: on_stage(stage, 0, None),
        )
        return Quantized(source=opened, bundle=made, report=report)
    made, report = quantize_bundle(
        opened,
        out,
        options,
        calibration_documents=documents,
        measure=None if measure_tokens == 0 else (lambda candidate: measure(candidate).to_dict()),
        on_progress=lambda done, total: on_stage("weights", done, total),
    )
    return Quantized(source=opened, bundle=made, report=report)


def measure_against(reference: Bundle, candidate: Bundle, max_tokens: int | None) -> Damage:
    """The damage of a quantized bundle over about `max_tokens` tokens of the held-out programs that ship, or all."""
    tokenizer = Tokenizer(reference.tokenizer_path)
    held_out = [file.text for file in load_corpus("held-out")]
    runtime = PROVING_RUNTIMES[reference.manifest.target]
    runtimes = [open_runtime(runtime, each) for each in (candidate, reference)]
    try:
        return measure_damage(runtimes[0], runtimes[1], tokenizer, held_out, max_tokens=max_tokens)
    finally:
        for each in runtimes:
            each.close()
