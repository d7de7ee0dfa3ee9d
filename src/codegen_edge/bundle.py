"""The bundle: a folder that runs anywhere, and `bundle.json`, which says what it holds and vouches for every byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from codegen_edge import contract
from codegen_edge.errors import BundleError, IntegrityError, InvalidInputError, UnsupportedModelError
from codegen_edge.model_config import ModelConfig, read_json_object
from codegen_edge.storage import MANIFEST_FILE, replace_file, sha256_of

FORMAT_VERSION = 1
TOKENIZER_FILE = "tokenizer.json"

Phase = Literal["prefill", "decode"]
ENGINE_FILES: dict[Phase, str] = {"prefill": "engines/prefill.engine", "decode": "engines/decode.engine"}

Check = Literal["full", "size"]
CHECKS: tuple[Check, ...] = get_args(Check)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size and hash of one file, as it was exported."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a bundle was made of.

    Attributes:
        name: the hub id, or the name of the local folder (never its path).
        revision: the hub's commit, or None for a local folder.
        sha256: hash over the config and the weight files, each by name and content.
        weights_dtype: dtype of the stored weights, for example "float16".
        mended: what was put right in its files, one sentence each.
    """

    name: str
    revision: str | None
    sha256: str
    weights_dtype: str
    mended: tuple[str, ...] = ()


CURRENT_GPU = "current"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What `codegen-edge build --runtime tensorrt` made of a bundle: one engine for prefill chunks, one for decode.

    Attributes:
        library: "tensorrt" or "tensorrt-rtx".
        version: of the library; its engines are for no other one.
        compute_capabilities: of the GPUs that they were built for, for example "8.9"; "current" with `gpu` for the one
            that built them.
        gpu: name of that GPU, or None.
        batch_size: rows of a step (B).
        capacity: tokens that a row may hold.
        chunk: tokens of a prefill step (T).
    """

    library: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    batch_size: int
    capacity: int
    chunk: int

    @property
    def buffer_length(self) -> int:
        """C of the KV buffers: room for a chunk of padding beyond what a row may hold."""
        return self.capacity + self.chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `bundle.json`.

    Attributes:
        task: what the graph computes.
        target: which operators it is made of.
        precision: how its weights are stored.
        model: the model's shape.
        source: the checkpoint that it was made of.
        tools: versions of the programs that made it.
        files: every other file of the bundle by its relative path.
        kv_cache: dtype of past and present; "fp32" stands for what the graph computes in.
        compute: dtype that the graph computes in.
        built_of: fingerprint of the bundle that this one was built of for a GPU, or None.
        engines: how its engines were built, or None for a bundle that holds a graph.
        parity: the verdict of the last verification, or None when it was never verified.
    """

    task: contract.Task
    target: contract.Target
    precision: contract.Precision
    model: ModelConfig
    source: Source
    tools: dict[str, str]
    files: dict[str, FileRecord]
    kv_cache: contract.KVPrecision = "fp32"
    compute: contract.Compute = "fp32"
    built_of: str | None = None
    engines: Engines | None = None
    parity: dict[str, Any] | None = None

    def to_json(self) -> bytes:
        """Serialize as indented JSON with a final newline."""
        fields = {"format_version": FORMAT_VERSION, **asdict(self)}
        return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Manifest:
        """Read the parsed `bundle.json`; raise BundleError on a newer format or a malformed field."""
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST_FILE} has format version {version!r}, this codegen-edge reads {FORMAT_VERSION}; "
                "upgrade codegen-edge or export the checkpoint again"
            )
        try:
            source = dict(fields["source"])
            source["mended"] = tuple(source.get("mended", ()))
            engines = fields.get("engines")
            if engines is not None:
                engines = Engines(**engines | {"compute_capabilities": tuple(engines["compute_capabilities"])})
            manifest = cls(
                task=fields["task"],
                target=fields["target"],
                precision=fields["precision"],
                model=ModelConfig(**fields["model"]),
                source=Source(**source),
                tools=dict(fields["tools"]),
                files={name: FileRecord(**record) for name, record in fields["files"].items()},
                kv_cache=fields.get("kv_cache", "fp32"),
                compute=fields.get("compute", "fp32"),
                built_of=fields.get("built_of"),
                engines=engines,
                parity=fields.get("parity"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, UnsupportedModelError) as exc:
            raise BundleError(f"{MANIFEST_FILE} is malformed ({exc}); export the checkpoint again") from exc
        for name, known in (
            ("task", contract.TASKS),
            ("target", contract.TARGETS),
            ("precision", contract.PRECISIONS),
            ("kv_cache", contract.KV_PRECISIONS),
            ("compute", contract.COMPUTES),
        ):
            if getattr(manifest, name) not in known:
                raise BundleError(
                    f"{MANIFEST_FILE} has {name} {getattr(manifest, name)!r}, this codegen-edge knows "
                    f"{', '.join(known)}; upgrade it"
                )
        return manifest


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
                f"{self.path} was exported for {self.manifest.task}; this needs a bundle for {task}: "
                f"codegen-edge export CHECKPOINT OUT --task {task}"
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
                f"{self.path} is a graph for {manifest.target}; runtime {runtime} needs target {target}: "
                f"codegen-edge export CHECKPOINT OUT --target {target}"
            )
        if manifest.compute not in compute:
            mend = (
                f"codegen-edge build BUNDLE OUT --runtime {runtime} --compute {compute[0]}"
                if manifest.compute == "fp32"
                else "take the bundle that it was built of"
            )
            raise BundleError(
                f"{self.path} computes in {manifest.compute}, runtime {runtime} in {' or '.join(compute)}: {mend}"
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
        raise BundleError(f"{folder} is not a folder; make a bundle with: codegen-edge export CHECKPOINT {folder}")
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


def records_of(folder: Path, known: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Size and sha256 of every file under `folder`; `known` ones are not read again."""
    records = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST_FILE:
            records[name] = known.get(name) or FileRecord(size_bytes=path.stat().st_size, sha256=sha256_of(path))
    return records


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
