"""What writes: each replaces something in a folder, and tells afterwards whether the old or the new is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle, FileRecord
from codegen_edge.bundle.storage import replace_file
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.errors import CodegenEdgeError
from codegen_edge.quantization import QuantizeOptions, quantize_bundle

State = Literal["old", "new", "nothing", "mixed"]

_OLD, _NEW = b"old" * 5000, b"new" * 7000
_VERDICT = {"verdict": "equal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something that is written.

    Attributes:
        name: of it.
        prepare: puts what is there before into an empty folder.
        write: writes.
        state: what is there: "mixed" is what must never be.
        names: what may be in the folder when all is done.
        replaces: whether something is there before.
    """

    name: str
    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    state: Callable[[Path], State]
    names: frozenset[str]
    replaces: bool = True


def scenarios(bundle: Bundle, work: Path) -> list[Scenario]:
    """All of them.

    Args:
        bundle: small, in full precision.
        work: a folder for what is to be expected.
    """
    fp16 = QuantizeOptions(scheme="fp16", overwrite=True)
    new = quantize_bundle(bundle, work / "expected", fp16)[0].manifest.files
    old = bundle.manifest.files

    def state_of_bundle(folder: Path) -> State:
        return _state_of_bundle(folder / "bundle", old, new)

    def copy_old(folder: Path) -> None:
        shutil.copytree(bundle.path, folder / "bundle")

    def quantize(folder: Path) -> None:
        quantize_bundle(bundle, folder / "bundle", fp16)

    def copy_over(folder: Path) -> None:
        with write_bundle(folder / "bundle", overwrite=True) as writer:
            for name in new:
                writer.add(name, (work / "expected" / name).read_bytes())
            writer.staged(open_bundle(work / "expected", check="size").manifest)

    return [
        Scenario(
            name="quantize over a bundle",
            prepare=copy_old,
            write=quantize,
            state=state_of_bundle,
            names=frozenset({"bundle"}),
        ),
        Scenario(
            name="quantize to a new folder",
            prepare=lambda folder: None,
            write=quantize,
            state=state_of_bundle,
            names=frozenset({"bundle"}),
            replaces=False,
        ),
        Scenario(
            name="write files over a bundle",
            prepare=copy_old,
            write=copy_over,
            state=state_of_bundle,
            names=frozenset({"bundle"}),
        ),
        Scenario(
            name="record a verdict",
            prepare=copy_old,
            write=lambda folder: open_bundle(folder / "bundle", check="size").record_parity(_VERDICT),
            state=lambda folder: _state_of_verdict(folder / "bundle"),
            names=frozenset({"bundle"}),
        ),
        Scenario(
            name="replace a file",
            prepare=lambda folder: (folder / "file").write_bytes(_OLD),
            write=lambda folder: replace_file(folder / "file", _NEW),
            state=lambda folder: _state_of_file(folder / "file"),
            names=frozenset({"file"}),
        ),
    ]


def _state_of_bundle(folder: Path, old: dict[str, FileRecord], new: dict[str, FileRecord]) -> State:
    if not folder.exists():
        return "nothing"
    try:
        files = open_bundle(folder).manifest.files
    except CodegenEdgeError:
        return "mixed"
    return "old" if files == old else "new" if files == new else "mixed"


def _state_of_verdict(folder: Path) -> State:
    try:
        parity = open_bundle(folder).manifest.parity
    except CodegenEdgeError:
        return "mixed"
    return "old" if parity is None else "new" if parity.get("verdict") == "equal" else "mixed"


def _state_of_file(path: Path) -> State:
    content = path.read_bytes() if path.exists() else b""
    return "old" if content == _OLD else "new" if content == _NEW else "mixed"
