"""Opening a bundle: a folder that runs anywhere, every file of which is compared with what `bundle.json` says of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from codegen_edge.bundle import contract
from codegen_edge.bundle.file_check import CHECKS, BackgroundCheck, Check, check_file
from codegen_edge.bundle.graph_check import MOST_GRAPH_BYTES, check_graph
from codegen_edge.bundle.held import HeldFolder, open_regular
from codegen_edge.bundle.manifest import ENGINE_FILES, FORMAT_VERSION, TOKENIZER_FILE, Manifest, Phase
from codegen_edge.bundle.model_config import read_json_object
from codegen_edge.bundle.storage import MANIFEST_FILE, replace_file
from codegen_edge.errors import BundleError, IntegrityError, InvalidInputError

_MOST_TRIES = 10  # of an open while writers replace the folder


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; its files have been checked against its manifest.

    Whoever reads a file of it opens `at(name)` within `reading()`: that is the folder that was checked, whatever lies
    at `path` by then. `path` and what is made of it are for people and other programs.

    Attributes:
        path: as it was given.
        manifest: what `bundle.json` holds.
        held: the folder that was checked; None for a bundle that is being written, which is read by path.
    """

    path: Path
    manifest: Manifest
    held: HeldFolder | None = field(default=None, repr=False, compare=False)

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.path / contract.MODEL_FILE

    def at(self, name: str) -> Path:
        """Where a file is opened; `name` is its path in the bundle."""
        return (self.path if self.held is None else self.held.root) / name

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read files of the bundle in the `with` block; at its end they must be those that were checked.

        Raises:
            IntegrityError: the bundle was replaced, or a file was changed, since it was opened.
        """
        try:
            yield
        except (BundleError, OSError) as exc:
            if self.is_moved:
                raise self._replaced() from exc
            if isinstance(exc, OSError):
                raise IntegrityError(f"{self.path} cannot be read: {exc.strerror or exc}") from exc
            if self.held is not None and str(self.held.root) in str(exc):
                message = str(exc).replace(str(self.held.root), str(self.path))
                raise type(exc)(message, hint=exc.hint) from exc
            raise
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise IntegrityError where a file is not the one any more that was checked."""
        changed = None if self.held is None else self.held.changed_file()
        if changed is not None:
            if self.is_replaced:
                raise self._replaced()
            raise IntegrityError(f"{self.path / changed} was changed while it was read; open the bundle again")

    def read(self, name: str) -> bytes:
        """The bytes of one of its small files; raise IntegrityError where they are not what was checked."""
        with self.reading():
            return self.at(name).read_bytes()

    @property
    def is_replaced(self) -> bool:
        """Whether another bundle, or none, lies at `path` since it was opened."""
        return self.held is not None and self.held.is_replaced

    @property
    def is_moved(self) -> bool:
        """Whether the folder was replaced, or renamed for a moment, since it was opened: opening it anew may help."""
        return self.held is not None and self.held.is_moved

    def _replaced(self) -> IntegrityError:
        return IntegrityError(f"{self.path} was replaced while it was read; open it again")

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
        path = self.path / MANIFEST_FILE
        now = Manifest.from_dict(read_json_object(self.at(MANIFEST_FILE), BundleError, shown=path))
        if now.files != self.manifest.files or self.is_replaced:
            raise BundleError(f"{self.path} was replaced meanwhile; the verdict is of the old bundle: verify again")
        fields = asdict(now)
        fields["parity"] = verdict
        manifest = Manifest.from_dict({"format_version": FORMAT_VERSION, **fields})
        # Into the folder that was verified: another one that takes its place now keeps its own verdict.
        replace_file(self.at(MANIFEST_FILE), manifest.to_json(), shown=path)


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
    for left in reversed(range(_MOST_TRIES)):
        bundle, wait_for_weights = open_ahead(path, check=check)
        try:
            wait_for_weights()
            bundle.check_unchanged()
        except IntegrityError:
            # A writer put another bundle there and removes this one: the new one is what is wanted.
            if not left or not bundle.is_moved:
                raise
        else:
            return bundle
    raise AssertionError("the last try returns or raises")


def open_ahead(path: str | Path, *, check: Check = "full") -> tuple[Bundle, Callable[[], None]]:
    """Open a bundle whose weights are still being compared: all else about it has been.

    Whoever loads the weights meanwhile waits for the check before anything is made of them, and where loading fails
    before that, too: altered weights may be the reason.

    Args:
        path: as of `open_bundle`.
        check: as of `open_bundle`.

    Returns:
        The bundle, and what waits for the check: it raises IntegrityError where the weights are altered, or were
        changed since the bundle was opened, even if they are right by then.

    Raises:
        InvalidInputError: no such check.
        BundleError: the folder is no bundle, or of a format that this version does not read.
        IntegrityError: a file is missing or truncated, or another one than the weights is altered.
    """
    if check not in CHECKS:
        raise InvalidInputError(f"check must be one of {', '.join(CHECKS)}, got {check!r}")
    folder = Path(path)
    for left in reversed(range(_MOST_TRIES)):
        if not folder.is_dir():
            raise BundleError(
                f"{folder} is not a folder; export a checkpoint to it first",
                hint=f"codegen-edge export CHECKPOINT {folder}",
            )
        try:
            held = HeldFolder(folder)
            bundle, weights = _open_held(folder, held, check)
        except BundleError:
            # A writer put another bundle there and removes this one: the new one is what is wanted.
            if not left or not held.is_moved:
                raise
        except OSError as exc:
            raise BundleError(f"{folder} cannot be read: {exc.strerror or exc}") from exc
        else:
            return bundle, _nothing_to_wait_for if weights is None else weights.wait
    raise AssertionError("the last try returns or raises")


def _nothing_to_wait_for() -> None:
    """Where sizes alone are compared, and for engines, which are compared before they are loaded."""


def _open_held(folder: Path, held: HeldFolder, check: Check) -> tuple[Bundle, BackgroundCheck | None]:
    manifest_path = folder / MANIFEST_FILE
    if not held.at(MANIFEST_FILE).is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_FILE}")
    manifest = Manifest.from_dict(read_json_object(held.at(MANIFEST_FILE), BundleError, shown=manifest_path))
    vital = _vital_files(manifest)
    for name in vital:
        if name not in manifest.files:
            raise BundleError(f"{manifest_path} does not list {name}; export the checkpoint again")
    weights = None
    for name, record in manifest.files.items():
        if name == contract.WEIGHTS_FILE and check == "full" and manifest.engines is None:
            weights = BackgroundCheck(held, name, record)
        else:
            check_file(held, name, record, check)
    vital_folder = PurePosixPath(vital[0]).parent.as_posix()
    for file in sorted(os.listdir(held.at(vital_folder))):
        if f"{vital_folder}/{file}" not in manifest.files:
            raise IntegrityError(
                f"{folder / vital_folder / file} is no part of the bundle that was exported; remove it"
            )
    bundle = Bundle(folder, manifest, held)
    if manifest.engines is None:
        read_graph(bundle)
    return bundle, weights


def read_graph(bundle: Bundle) -> bytes:
    """The graph's bytes, which passed the gate: no reader of graphs gets others.

    Raises:
        BundleError: the graph is corrupt, or a tensor of it lies where none may lie.
        IntegrityError: its file is missing or was changed.
    """
    with bundle.reading():
        descriptor = open_regular(bundle.at(contract.MODEL_FILE))
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(MOST_GRAPH_BYTES + 1)
        if len(content) > MOST_GRAPH_BYTES:
            raise BundleError(f"{bundle.model_path} has more than the {MOST_GRAPH_BYTES} bytes of any graph of ours")
        data_bytes = bundle.at(contract.WEIGHTS_FILE).stat().st_size
        check_graph(content, data_bytes, bundle.model_path, bundle.manifest)
    return content


def _vital_files(manifest: Manifest) -> tuple[str, ...]:
    if manifest.engines is not None:
        return (*ENGINE_FILES.values(), TOKENIZER_FILE)
    return contract.MODEL_FILE, contract.WEIGHTS_FILE, TOKENIZER_FILE
