"""The texts that ship with us: one to evaluate on, one to calibrate with. No file is in both, none was trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from codegen_edge.errors import IntegrityError

CorpusName = Literal["held-out", "calibration"]
CORPORA: tuple[CorpusName, ...] = get_args(CorpusName)
FOLDER = Path(__file__).resolve().parent / "corpora"

Split = Literal["train", "validation", "held-out"]
# Of 100 buckets of the content's hash; the rest is trained on.
_HELD_OUT_BUCKETS = range(4)
_VALIDATION_BUCKETS = range(4, 8)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One program of the library.

    Attributes:
        path: below the library's folder, with forward slashes.
        sha256: of the file's bytes; it decides the split.
        text: the program.
    """

    path: str
    sha256: str
    text: str

    @property
    def split(self) -> Split:
        """Which split the file is in; the same file is in the same one on every machine."""
        bucket = int(self.sha256[:8], 16) % 100
        if bucket in _HELD_OUT_BUCKETS:
            return "held-out"
        return "validation" if bucket in _VALIDATION_BUCKETS else "train"

    @property
    def is_unaltered(self) -> bool:
        """Whether the text has the hash that it had."""
        return hashlib.sha256(self.text.encode()).hexdigest() == self.sha256


def load_corpus(name: CorpusName, folder: Path = FOLDER) -> list[SourceFile]:
    """The programs of a shipped corpus.

    Raises:
        IntegrityError: the file is missing or its programs are not the ones that shipped.
    """
    path = folder / f"{name}.jsonl"
    try:
        files = [SourceFile(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as exc:
        raise IntegrityError(f"{path} is damaged ({exc}); install codegen-edge again") from exc
    for file in files:
        if not file.is_unaltered:
            raise IntegrityError(f"{path}: {file.path} was altered; install codegen-edge again")
    return files
