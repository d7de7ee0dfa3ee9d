"""Mixed precision by budget: the smallest int4 bundle whose divergence stays within what the user allows.

Every matrix's sensitivity is measured: the divergence of the float model when this matrix alone is at 4 bits, on the
calibration text. Matrices are then kept at 8 bits in the order of what that saves for the bytes that it costs, as many
as the whole model needs to meet the budget, which is measured on the quantized model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.leftovers import working_folder
from codegen_edge.bundle.weights import Weight, load_graph
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.damage import Damage, measure_damage
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.quantization import QuantizationReport, QuantizeOptions, quantize_bundle
from codegen_edge.quantization.calibration import Calibration
from codegen_edge.quantization.matrices import Matrix, find_matrices
from codegen_edge.quantization.plan import Making
from codegen_edge.quantization.quantize import require_float
from codegen_edge.quantization.schemes import rewrite_graph
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from codegen_edge.tokenizer import Tokenizer

SENSITIVITY_TOKENS = 2048

OnStage = Callable[[str], None]
"""Told in words what is done now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One matrix at 4 bits, all others float.

    Attributes:
        name: of the matrix.
        mean_kl: divergence that it alone causes, in nats.
        extra_bytes: what keeping it at 8 bits costs.
    """

    name: str
    mean_kl: float
    extra_bytes: int

    @property
    def worth(self) -> float:
        """Divergence saved for a byte."""
        return self.mean_kl / self.extra_bytes


def quantize_within_budget(
    bundle: Bundle,
    out: str | Path,
    options: QuantizeOptions,
    budget_kl: float,
    *,
    calibration_texts: Sequence[str],
    measure: Callable[[Bundle], Damage],
    on_stage: OnStage = lambda _: None,
) -> tuple[Bundle, QuantizationReport]:
    """Quantize to int4, keeping as few matrices at 8 bits as the budget needs.

    Args:
        bundle: fp32.
        out: the new bundle's folder.
        options: scheme "int4"; its `kept_at_8_bits` is chosen here.
        budget_kl: largest mean divergence from the float model, in nats.
        calibration_texts: for the sensitivities, and for a calibrated method.
        measure: the damage of a quantized bundle; its `mean_kl` is held to the budget.
        on_stage: called with what is being done, in words.

    Raises:
        InvalidInputError: another scheme, a budget that is not above 0, or one that all matrices at 8 bits do not
            meet; it says what was reached, and nothing is written.
    """
    if options.scheme != "int4":
        raise InvalidInputError(f"a budget chooses between 4 and 8 bits: it goes with int4, not {options.scheme}")
    if not 0 < budget_kl < float("inf"):
        raise InvalidInputError(f"budget_kl must be a number above 0, got {budget_kl}")
    tokenizer = Tokenizer(bundle.tokenizer_path)
    documents = [document_ids(tokenizer, text) for text in calibration_texts]
    sensitivities = measure_sensitivities(bundle, options, documents, tokenizer, calibration_texts, on_stage)
    ranked = sorted(sensitivities, key=lambda each: each.worth, reverse=True)

    with working_folder(Path(out).absolute().parent, "budget") as folder:
        tried: dict[int, Damage] = {}

        def damage_with(count: int) -> Damage:
            """The damage with the first `count` matrices of the ranking at 8 bits."""
            if count not in tried:
                on_stage(f"measuring with {count} of {len(ranked)} matrices at 8 bits")
                kept = frozenset(each.name for each in ranked[:count])
                candidate, _ = quantize_bundle(
                    bundle,
                    Path(folder) / "candidate",
                    replace(options, kept_at_8_bits=kept, overwrite=True),
                    calibration_documents=documents,
                )
                tried[count] = measure(candidate)
            return tried[count]

        reached = damage_with(len(ranked)).mean_kl
        if reached > budget_kl:
            raise InvalidInputError(
                f"a budget of {budget_kl:g} nats cannot be met: with every matrix at 8 bits the divergence is "
                f"{reached:.2g}; nothing was written"
            )
        count = _fewest(len(ranked), lambda count: damage_with(count).mean_kl <= budget_kl)
    kept = ranked[:count]
    reported: dict[str, Any] = {
        "budget_kl": budget_kl,
        "reached_kl": tried[count].mean_kl,
        "kept_at_8_bits": [each.name for each in kept],
        "sensitivities": [asdict(each) for each in ranked],
        "tried": {str(number): damage.mean_kl for number, damage in sorted(tried.items())},
    }
    on_stage("writing")
    return quantize_bundle(
        bundle,
        out,
        replace(options, kept_at_8_bits=frozenset(each.name for each in kept)),
        calibration_documents=documents,
        measure=lambda _: tried[count].to_dict(),
        budget=reported,
    )


def _fewest(most: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest count in 0…most that is enough; `most` is known to be."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def measure_sensitivities(
    bundle: Bundle,
    options: QuantizeOptions,
    documents: Sequence[NDArray[np.int64]],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    on_stage: OnStage = lambda _: None,
) -> list[Sensitivity]:
    """What every matrix at 4 bits does to the float model by itself, in the order of the graph.

    Memory: that of two float sessions.
    """
    require_float(bundle)
    model, read = load_graph(bundle)
    made: dict[str, Weight] = {}

    def on_rows(matrix: Matrix, first: int, weights: Weight, dequantized: Weight) -> None:
        whole = made.setdefault(matrix.name, np.empty((matrix.rows, matrix.columns), np.float32))
        whole[first : first + len(dequantized)] = dequantized

    plan_options = replace(options.plan_options(bundle.manifest.target), kept_at_8_bits=frozenset())
    making = Making(on_rows=on_rows)
    kinds = {matrix.name: matrix.kind for matrix in find_matrices(model.graph)}
    if options.is_calibrated_method:
        making = replace(making, second_moment=Calibration(bundle, documents).second_moment)
    groups = rewrite_graph(model, options.scheme, plan_options, making)
    reference = open_runtime("cpu", bundle)
    sensitivities = []
    for number, group in enumerate(groups, start=1):
        on_stage(f"sensitivity of matrix {number} of {len(groups)}")
        group.make(read(group.source))
        by_row = made.pop(group.source)
        weight = by_row if kinds[group.source] == "embedding" else np.ascontiguousarray(by_row.T)
        candidate = OrtCpuRuntime(bundle, weights={group.source: weight})
        damage = measure_damage(candidate, reference, tokenizer, texts, max_tokens=SENSITIVITY_TOKENS)
        candidate.close()
        extra_bytes = weight.size // 2  # 4 bits more for each weight
        sensitivities.append(Sensitivity(name=group.source, mean_kl=damage.mean_kl, extra_bytes=extra_bytes))
    reference.close()
    return sensitivities
