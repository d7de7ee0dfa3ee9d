"""Writing a bundle: staged beside its place, hashed, and put there in one step, whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from codegen_edge.bundle import Bundle, FileRecord, Manifest, contract
from codegen_edge.bundle.storage import MANIFEST_FILE, memory_errors, sha256_of, staged_folder, storage_errors
from codegen_edge.bundle.weights import Progress, ReadWeight, WeightGroup, write_graph, write_weights

GRAPH_FILES = (contract.MODEL_FILE, contract.WEIGHTS_FILE)


class BundleWriter:
    """A bundle that is being written; from `write_bundle`."""

    def __init__(self, target: Path, stage: Path) -> None:
        self._target = target
        self._stage = stage
        self._records: dict[str, FileRecord] = {}
        self._manifest: Manifest | None = None

    def write_model(
        self,
        model: ir.Model,
        groups: Sequence[WeightGroup],
        read: ReadWeight,
        on_progress: Progress | None = None,
    ) -> None:
        """Stream the weights into the data file, then write the graph that points at them.

        Memory: one weight, and what is made of it.

        Args:
            model: its initializers point at the data file afterwards.
            groups: what is written, in this order.
            read: gives the weights.
            on_progress: called with the bytes of weights that are written, and the bytes in all.

        Raises:
            NumericsError: from `read`.
            StorageError: the disk is full.
        """
        with storage_errors(self._target):
            (self._stage / contract.MODEL_FILE).parent.mkdir(parents=True, exist_ok=True)
        self._records[contract.WEIGHTS_FILE] = write_weights(groups, read, self._stage, on_progress)
        with storage_errors(self._target):
            write_graph(model, self._stage)

    def add(self, name: str, content: bytes) -> None:
        """Add a file, or replace one; `name` is its path in the bundle."""
        with storage_errors(self._target):
            path = self._stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._records.pop(name, None)

    def copy_from(self, bundle: Bundle, *, leave_out: Collection[str] = ()) -> None:
        """Copy another bundle's files but its graph and weights: tokenizer, configs, reports."""
        for name in bundle.manifest.files:
            if name not in GRAPH_FILES and name not in leave_out:
                self.add(name, bundle.read(name))

    def staged(self, manifest: Manifest) -> Bundle:
        """The bundle as it stands, so that it can be compared with its reference before it appears.

        Args:
            manifest: of the bundle, without `files`; the last one that is given is what `bundle.json` will hold.
        """
        with storage_errors(self._target):
            for path in sorted(self._stage.rglob("*")):
                name = path.relative_to(self._stage).as_posix()
                if path.is_file() and name not in self._records:
                    self._records[name] = FileRecord(size_bytes=path.stat().st_size, sha256=sha256_of(path))
        self._manifest = replace(manifest, files={name: self._records[name] for name in sorted(self._records)})
        return Bundle(self._stage, self._manifest)

    def seal(self) -> None:
        """Write `bundle.json`, last of all: it vouches for the other files."""
        assert self._manifest is not None, "staged() was not called"
        manifest = self.staged(self._manifest).manifest
        with storage_errors(self._target):
            (self._stage / MANIFEST_FILE).write_bytes(manifest.to_json())


@contextmanager
def write_bundle(out: str | Path, *, overwrite: bool) -> Iterator[BundleWriter]:
    """Write a bundle in the `with` block; at its end it takes the place of `out`, and after an error nothing does.

    Args:
        out: the bundle's folder.
        overwrite: whether a bundle that is there may be replaced; it stays until the new one is whole.

    Raises:
        InvalidInputError: `out` exists and may not be replaced.
        StorageError: the disk is full, or the memory does not suffice.
    """
    target = Path(out)
    with memory_errors(target), staged_folder(target, overwrite=overwrite) as stage:
        writer = BundleWriter(target, stage)
        yield writer
        writer.seal()
