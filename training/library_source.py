"""The standard library's own source as a corpus, split by what is in each file."""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from pathlib import Path

from codegen_edge.checkpoints.corpora import SourceFile
from codegen_edge.errors import InvalidInputError

_INSTALLED_LATER = {"site-packages", "dist-packages", "__pycache__"}
_LEAST_BYTES = 5_000_000  # a library with its source has six times that; a frozen or stripped one nearly nothing


def standard_library() -> Path:
    """The folder of the running interpreter's library."""
    return Path(sysconfig.get_path("stdlib"))


def read_library(folder: Path, *, least_bytes: int = _LEAST_BYTES) -> list[SourceFile]:
    """Read every program below `folder`, tests included, without what was installed later.

    Files that are not text in the encoding that they declare are left out (the library's tests hold some on
    purpose), and so are copies: of equal files the first counts.

    Args:
        folder: of the library.
        least_bytes: how much source must be there for it to be worth training on.

    Returns:
        The files in the order of their paths.

    Raises:
        InvalidInputError: there is too little source.
    """
    files: dict[str, SourceFile] = {}
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if _INSTALLED_LATER.isdisjoint(relative.parts):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            text = _read_program(path)
            if text and digest not in files:
                files[digest] = SourceFile(relative.as_posix(), digest, text)
    found_bytes = sum(len(file.text.encode()) for file in files.values())
    if found_bytes < least_bytes:
        raise InvalidInputError(
            f"{folder} holds {found_bytes / 1e6:.1f} MB of Python source, {least_bytes / 1e6:.0f} MB are needed: this "
            "interpreter came without its library's source or tests. Train with one that has them, as from python.org"
        )
    return list(files.values())


def _read_program(path: Path) -> str | None:
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return None


def fingerprint(files: list[SourceFile]) -> str:
    """Hex sha256 over the paths and the contents of `files`, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path} {file.sha256}\n".encode())
    return digest.hexdigest()
