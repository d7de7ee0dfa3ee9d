"""The bundles under a folder, by their manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen_edge.bundle import Manifest, open_bundle
from codegen_edge.bundle.storage import MANIFEST_FILE
from codegen_edge.errors import BundleError, InvalidInputError

_MOST_LEVELS = 6  # below the folder
_SKIPPED = frozenset({"node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A folder with a manifest.

    Attributes:
        path: of the folder.
        manifest: what it says; None where the bundle cannot be opened.
        size_bytes: of the files that it lists.
        problem: why it cannot be opened, or "".
    """

    path: Path
    manifest: Manifest | None
    size_bytes: int
    problem: str = ""

    @property
    def verdict(self) -> str:
        """Of the last verification: "equal", another word of it, or "not verified"."""
        parity = None if self.manifest is None else self.manifest.parity
        return "not verified" if parity is None else str(parity.get("verdict", "unreadable"))


def list_bundles(folder: str | Path = ".") -> Iterator[Listed]:
    """Find bundles, in the order of their paths; sizes of files are compared, hashes are not.

    Hidden folders, links and what lies more than six levels down are passed over.

    Args:
        folder: where to look; it may be a bundle itself.

    Raises:
        InvalidInputError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InvalidInputError(f"{root} is not a folder")
    for path in _with_manifest(root, _MOST_LEVELS):
        try:
            bundle = open_bundle(path, check="size")
        except BundleError as exc:
            yield Listed(path=path, manifest=None, size_bytes=0, problem=str(exc))
        else:
            yield Listed(path=path, manifest=bundle.manifest, size_bytes=bundle.size_bytes)


def _with_manifest(folder: Path, levels: int) -> Iterator[Path]:
    """Folders that hold a bundle.json; nothing below one is looked at."""
    if (folder / MANIFEST_FILE).is_file():
        yield folder
        return
    if not levels:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # of somebody else
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.name not in _SKIPPED and entry.is_dir(follow_symlinks=False):
            yield from _with_manifest(Path(entry.path), levels - 1)
