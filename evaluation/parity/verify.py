"""Proving a bundle equal to the checkpoint that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codegen_edge.bundle import Bundle, Source
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.evaluation.parity.compare import (
    DEFAULT_PROMPTS,
    DEFAULT_STEPS,
    ParityReport,
    compare_positions,
    compare_runtimes,
)
from codegen_edge.evaluation.parity.tolerances import TOLERANCES
from codegen_edge.exporter import Checkpoint, load_reference_model
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.runtimes.features import FeatureExtractor
from codegen_edge.runtimes.registry import PROVING_RUNTIMES
from codegen_edge.tokenizer import Tokenizer


def verify_bundle(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    runtime: str | None = None,
    num_steps: int = DEFAULT_STEPS,
    prompts: Sequence[str] = DEFAULT_PROMPTS,
) -> ParityReport:
    """Compare a bundle with its checkpoint: logits, or hidden states for feature-extraction.

    Memory: the reference model in float32, and the bundle's own.

    Args:
        bundle: an opened bundle.
        checkpoint: the reference, read as float32 and run by transformers.
        runtime: by which the bundle runs; None takes the one that computes its target on any machine.
        num_steps: cached decode steps after each prompt.
        prompts: texts of different lengths.

    Raises:
        BundleError: the checkpoint is of another shape than the bundle.
        InvalidInputError: a prompt does not fit the context, or no runtime has this name.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    if bundle.manifest.built_of is not None:
        raise BundleError(
            f"{bundle.path} was built for a GPU: verify it against the bundle that it was built of",
            hint="--reference BUNDLE",
        )
    if bundle.manifest.precision not in TOLERANCES:
        raise BundleError(
            f"{bundle.path} is {bundle.manifest.precision}, which is not meant to be equal: what that did is in its "
            "quantization_report.json; verify the fp32 bundle that it was made of"
        )
    if bundle.manifest.model != checkpoint.model:
        raise BundleError(
            f"{checkpoint.folder} is not what {bundle.path} was made of: it is {checkpoint.model}, "
            f"the bundle {bundle.manifest.model}"
        )
    runtime = runtime or PROVING_RUNTIMES[bundle.manifest.target]
    tokenizer = Tokenizer(bundle.tokenizer_path)
    token_ids = [tokenizer.encode(prompt) for prompt in prompts]
    if bundle.manifest.task == "feature-extraction":
        return _verify_features(bundle, checkpoint, token_ids, runtime)
    tolerance = TOLERANCES[bundle.manifest.precision]
    candidate = open_runtime(runtime, bundle)
    reference = ReferenceRuntime(load_reference_model(checkpoint), checkpoint.model)
    try:
        return compare_runtimes(candidate, reference, token_ids, tolerance=tolerance, num_steps=num_steps)
    finally:
        candidate.close()
        reference.close()


def verify_built(
    built: Bundle,
    source: Bundle,
    *,
    runtime: str | None = None,
    num_steps: int = DEFAULT_STEPS,
    prompts: Sequence[str] = DEFAULT_PROMPTS,
) -> ParityReport:
    """Compare what was built for a GPU with the bundle that it was built of, which a CPU runs in float32.

    That bundle is the one that is verified against the checkpoint, or whose damage by quantization is known.

    Args:
        built: from `codegen-edge build`.
        source: the bundle that it was built of, whatever its precision.
        runtime: None, or the one that runs `built`: there is no other.
        num_steps: cached decode steps after each prompt.
        prompts: texts of different lengths; as many of them as the engines have rows.

    Raises:
        BundleError: `built` was not built for a GPU, or of another bundle.
        InvalidInputError: another runtime was asked for.
        RuntimeUnavailableError: its runtime cannot be had here.
    """
    manifest = built.manifest
    if manifest.built_of is None:
        raise BundleError(f"{built.path} was not built for a GPU: verify it against its checkpoint")
    if manifest.built_of != source.fingerprint:
        raise BundleError(f"{built.path} was built of another bundle than {source.path}: build it again")
    its_runtime = "cuda" if manifest.engines is None else "tensorrt"
    if runtime not in (None, its_runtime):
        raise InvalidInputError(f"{built.path} was built for runtime {its_runtime}, not for {runtime}")
    tokenizer = Tokenizer(built.tokenizer_path)
    rows = len(prompts) if manifest.engines is None else manifest.engines.batch_size
    token_ids = [tokenizer.encode(prompt) for prompt in prompts[:rows]]
    candidate = open_runtime(its_runtime, built)
    try:
        reference = _open_unrounded(source)
        try:
            tolerance = TOLERANCES["fp32" if manifest.compute == "fp32" else f"computed in {manifest.compute}"]
            return compare_runtimes(candidate, reference, token_ids, tolerance=tolerance, num_steps=num_steps)
        finally:
            reference.close()
    finally:
        candidate.close()


def _open_unrounded(bundle: Bundle) -> Runtime:
    """What computes the bundle on a CPU as a GPU does: activations of int8 and int4 products stay floats.

    The cpu runtime rounds them, which moves logits by more than half precision does (0.2 for int8, 0.5 for int4).
    """
    if bundle.manifest.target == "ort":
        return OrtCpuRuntime(bundle, rounds_activations=False)
    return open_runtime(PROVING_RUNTIMES[bundle.manifest.target], bundle)


def verdict_of(report: ParityReport, bundle: Bundle, reference: Source) -> dict[str, Any]:
    """What `bundle.json` keeps of a verification: the report, and whether its reference is the bundle's own source."""
    is_source = reference.sha256 == bundle.manifest.source.sha256
    return report.to_dict() | {
        "reference": {"name": reference.name, "sha256": reference.sha256, "is_source": is_source}
    }


def _verify_features(bundle: Bundle, checkpoint: Checkpoint, prompts: list[list[int]], runtime: str) -> ParityReport:
    import torch

    if runtime != "cpu":
        raise InvalidInputError(f"features are extracted by the cpu runtime, not by {runtime!r}")
    tolerance = TOLERANCES[bundle.manifest.precision]
    extractor = FeatureExtractor(bundle)
    model = load_reference_model(checkpoint).transformer
    with torch.inference_mode():
        truths = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in prompts]

    def positions(results: Sequence[Any]) -> Any:
        for row, (truth, result) in enumerate(zip(truths, results, strict=True)):
            for position, (expected, actual) in enumerate(zip(truth, result, strict=True)):
                yield f"prompt {row}, position {position}", expected, actual

    alone = [extractor.extract([ids])[0] for ids in prompts]
    together = extractor.extract(prompts)
    assert all(np.shape(a) == np.shape(b) for a, b in zip(alone, together, strict=True))
    return ParityReport(
        runtime="cpu",
        num_prompts=len(prompts),
        num_steps=0,
        tolerance=tolerance.relative,
        comparisons=(
            compare_positions("alone", positions(alone), tolerance),
            compare_positions("padded batch", positions(together), tolerance),
        ),
    )
