"""Is a bundle equal to its reference?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.bundle.storage import MANIFEST_FILE
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError, StorageError
from codegen_edge.evaluation.parity.compare import DEFAULT_STEPS, ParityReport
from codegen_edge.runtimes import open_runtime
from codegen_edge.workflows.packages import require_export_packages
from codegen_edge.workflows.progress import OnStage, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `verify` found; it is in the bundle's `bundle.json` as well, unless it could not be stored there.

    Attributes:
        bundle: that was compared.
        report: every comparison.
        verdict: the report for JSON, with the reference's name and hash.
        is_source: whether the reference is what the bundle was made of.
        not_stored: why the verdict is not in the bundle; empty where it is.
    """

    bundle: Bundle
    report: ParityReport
    verdict: dict[str, Any]
    is_source: bool
    not_stored: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether every comparison was within its tolerance."""
        return self.report.is_equal


def verify(
    bundle: str | Path | Bundle,
    reference: str | Path,
    *,
    runtime: str | None = None,
    num_steps: int = DEFAULT_STEPS,
    revision: str | None = None,
    offline: bool = False,
    store: bool = True,
    on_stage: OnStage = silent,
) -> Verified:
    """Compare a bundle with its reference, logit by logit and step by step, and keep the verdict in `bundle.json`.

    A bundle that cannot be written, on a read-only disk for example, is verified all the same; `not_stored` says why
    the verdict is not in it.

    Args:
        bundle: its folder, or opened.
        reference: the checkpoint, a folder or a hub id; for what was built for a GPU the bundle that it was built of.
        runtime: which runs the bundle; None takes the one that computes its target on any machine.
        num_steps: decode steps after each prompt.
        revision: branch, tag or commit of a hub id.
        offline: use the hub's local cache only.
        store: whether the verdict is written into the bundle.
        on_stage: called with the progress.

    Returns:
        The verdict, equal or not.

    Raises:
        BundleError: the bundle is not meant to be equal (it is quantized), or the reference is of another shape.
        CheckpointError: the checkpoint is unsound or cannot be fetched.
        InvalidInputError: a revision for what is no hub id; no such runtime.
        RuntimeUnavailableError: the runtime or a package cannot be had here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if is_bundle(reference):
        if revision is not None or offline:
            raise InvalidInputError(f"a revision and offline are of a hub id; {reference} is a bundle")
        return _stored(_verify_built(opened, Path(reference), runtime, num_steps, on_stage), store)
    require_export_packages()
    from codegen_edge.evaluation.parity.verify import verdict_of, verify_bundle
    from codegen_edge.exporter import locate_checkpoint, open_checkpoint

    located = locate_checkpoint(str(reference), revision=revision, offline=offline)
    on_stage("comparing every step with the reference", 0, None)
    checkpoint = open_checkpoint(located.folder)
    report = verify_bundle(opened, checkpoint, runtime=runtime, num_steps=num_steps)
    verdict = verdict_of(report, opened, checkpoint.source(located.name, located.revision))
    verdict |= _step_noise(opened)
    is_source = bool(verdict["reference"]["is_source"])
    return _stored(Verified(bundle=opened, report=report, verdict=verdict, is_source=is_source), store)


def _stored(verified: Verified, store: bool) -> Verified:
    """Keep the verdict in the bundle, where that is wanted and can be."""
    if not store:
        return replace(verified, not_stored="that was not wanted")
    try:
        verified.bundle.record_parity(verified.verdict)
    except StorageError as exc:
        return replace(verified, not_stored=str(exc))
    return verified


def _step_noise(bundle: Bundle) -> dict[str, Any]:
    """By how much logits differ on this machine with the way a text is read, in plain and in exact steps.

    For bundles that the cpu runtime runs; None where exact steps are not to be had here.
    """
    if bundle.manifest.target != "ort" or bundle.manifest.task != "text-generation":
        return {}
    from codegen_edge.runtimes.backends.ort_exact import step_noise

    noise: dict[str, float | None] = {}
    for name, is_exact in (("plain", None), ("exact", True)):
        try:
            runtime = open_runtime("cpu", bundle, exact_steps=is_exact)
        except RuntimeUnavailableError:
            noise[name] = None
            continue
        noise[name] = step_noise(runtime)
        runtime.close()
    return {"step_noise": noise}


def is_bundle(reference: str | Path) -> bool:
    """Whether a reference is a bundle's folder, and no checkpoint."""
    return (Path(reference) / MANIFEST_FILE).is_file()


def _verify_built(built: Bundle, reference: Path, runtime: str | None, num_steps: int, on_stage: OnStage) -> Verified:
    from codegen_edge.evaluation.parity.verify import verify_built

    source = open_bundle(reference)
    on_stage("comparing every step with the bundle that it was built of", 0, None)
    report = verify_built(built, source, runtime=runtime, num_steps=num_steps)
    named = {"name": reference.name, "sha256": source.fingerprint, "is_source": True}
    verdict = report.to_dict() | {"reference": named}
    return Verified(bundle=built, report=report, verdict=verdict, is_source=True)
