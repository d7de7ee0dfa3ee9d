"""Opening a bundle: a folder that runs anywhere, every file of which is compared with what `bundle.json` says of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from codegen_edge.bundle import contract
from codegen_edge.bundle.manifest import ENGINE_FILES, FORMAT_VERSION, TOKENIZER_FILE, FileRecord, Manifest, Phase
from codegen_edge.bundle.model_config import read_json_object
from codegen_edge.bundle.storage import MANIFEST_FILE, replace_file, sha256_of
from codegen_edge.errors import BundleError, IntegrityError, InvalidInputError

Check = Literal["full", "size"]
CHECKS: tuple[Check, ...] = get_args(Check)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; its files have been checked against its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / contract.MODEL_FILE

    def engine_path(self, phase: Phase) -> Path:
        """The engine of prefill chunks or of decode steps."""
        return self.path / ENGINE_FILES[phase]

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer in the format of the tokenizers library."""
        return self.path / TOKENIZER_FILE

    @property
    def fingerprint(self) -> str:
        """Hash over what computes and the tokenizer: what a KV cache and its tokens belong to."""
        digest = hashlib.sha256()
        for name in _vital_files(self.manifest):
            digest.update(self.manifest.files[name].sha256.encode())
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Size of all files that the manifest lists."""
        return sum(record.size_bytes for record in self.manifest.files.values())

    def require_task(self, task: contract.Task) -> None:
        """Raise BundleError when the bundle was exported for another task."""
        if self.manifest.task != task:
            raise BundleError(
                f"{self.path} was exported for {self.manifest.task}; this needs a bundle for {task}",
                hint=f"codegen-edge export CHECKPOINT OUT --task {task}",
            )

    def require_graph(self, runtime: str, *, target: contract.Target, compute: tuple[contract.Compute, ...]) -> None:
        """Raise BundleError unless this is a graph that `runtime` computes."""
        manifest = self.manifest
        if manifest.engines is not None:
            raise BundleError(
                f"{self.path} holds engines, which runtime tensorrt runs; runtime {runtime} needs the bundle that they "
                "were built of"
            )
        if manifest.target != target:
            raise BundleError(
                f"{self.path} is a graph for {manifest.target}; runtime {runtime} needs target {target}",
                hint=f"codegen-edge export CHECKPOINT OUT --target {target}",
            )
        if manifest.compute not in compute:
            is_source = manifest.compute == "fp32"
            raise BundleError(
                f"{self.path} computes in {manifest.compute}, runtime {runtime} in {' or '.join(compute)}; "
                + ("build it for that runtime" if is_source else "take the bundle that it was built of"),
                hint=f"codegen-edge build BUNDLE OUT --runtime {runtime} --compute {compute[0]}" if is_source else "",
            )

    def record_parity(self, verdict: dict[str, Any]) -> None:
        """Write a verification's verdict into `bundle.json`, in one step.

        Raises:
            BundleError: the bundle was replaced since it was opened.
        """
        now = Manifest.from_dict(read_json_object(self.path / MANIFEST_FILE, BundleError))
        if now.files != self.manifest.files:
            raise BundleError(f"{self.path} was replaced meanwhile; the verdict is of the old bundle: verify again")
        fields = asdict(now)
        fields["parity"] = verdict
        manifest = Manifest.from_dict({"format_version": FORMAT_VERSION, **fields})
        replace_file(self.path / MANIFEST_FILE, manifest.to_json())


def open_bundle(path: str | Path, *, check: Check = "full") -> Bundle:
    """Open a bundle and check its files.

    Args:
        path: the folder that `codegen-edge export` wrote.
        check: "full" compares every file's size and sha256, "size" the sizes only.

    Raises:
        InvalidInputError: no such check.
        BundleError: the folder is no bundle, or of a format that this version does not read.
        IntegrityError: a file is missing, truncated or altered.
    """
    if check not in CHECKS:
        raise InvalidInputError(f"check must be one of {', '.join(CHECKS)}, got {check!r}")
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(
            f"{folder} is not a folder; export a checkpoint to it first",
            hint=f"codegen-edge export CHECKPOINT {folder}",
        )
    if not (folder / MANIFEST_FILE).is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_FILE}")
    manifest = Manifest.from_dict(read_json_object(folder / MANIFEST_FILE, BundleError))
    for name in _vital_files(manifest):
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST_FILE} does not list {name}; export the checkpoint again")
    for name, record in manifest.files.items():
        _check_file(folder, name, record, check)
    for file in sorted((folder / _vital_files(manifest)[0]).parent.iterdir()):
        if file.relative_to(folder).as_posix() not in manifest.files:
            raise IntegrityError(f"{file} is no part of the bundle that was exported; remove it")
    return Bundle(folder, manifest)


def _vital_files(manifest: Manifest) -> tuple[str, ...]:
    if manifest.engines is not None:
        return (*ENGINE_FILES.values(), TOKENIZER_FILE)
    return contract.MODEL_FILE, contract.WEIGHTS_FILE, TOKENIZER_FILE


def _check_file(folder: Path, name: str, record: FileRecord, check: Check) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise IntegrityError(f"{folder / MANIFEST_FILE} lists a path outside the bundle: {name!r}")
    path = folder / name
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; export the checkpoint again")
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise IntegrityError(
            f"{path} has {size_bytes} bytes, {record.size_bytes} were exported: it was truncated or altered"
        )
    if check == "full" and sha256_of(path) != record.sha256:
        raise IntegrityError(f"{path} was altered: its sha256 is not the one in {MANIFEST_FILE}")
