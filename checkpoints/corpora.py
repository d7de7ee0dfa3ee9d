"""The texts that ship with us: one to evaluate on, one to calibrate with. No file is in both, none was trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from codegen_edge.checkpoints.library_source import SourceFile, Split
from codegen_edge.errors import IntegrityError

CorpusName = Literal["held-out", "calibration"]
CORPORA: tuple[CorpusName, ...] = get_args(CorpusName)
FOLDER = Path(__file__).resolve().parent / "corpora"

# Calibration looks at text, as choosing settings does: its files come from what training was watched with.
SPLIT_OF: dict[CorpusName, Split] = {"held-out": "held-out", "calibration": "validation"}
_SAMPLE_BYTES = 256 * 1024
_LARGEST_FILE_BYTES = 64 * 1024  # so that no program is more than a quarter of a sample


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
        if not _is_unaltered(file):
            raise IntegrityError(f"{path}: {file.path} was altered; install codegen-edge again")
    return files


def sample(files: list[SourceFile], name: CorpusName) -> list[SourceFile]:
    """Programs of the corpus's split in the order of their hashes, which is no order of theirs, some 256 KiB.

    Files in another encoding than UTF-8 or with other line ends are passed over: their text alone has not their hash.
    """
    chosen, size_bytes = [], 0
    for file in sorted(files, key=lambda file: file.sha256):
        length = len(file.text.encode())
        if file.split == SPLIT_OF[name] and length <= _LARGEST_FILE_BYTES and _is_unaltered(file):
            chosen.append(file)
            size_bytes += length
            if size_bytes >= _SAMPLE_BYTES:
                break
    return chosen


def _is_unaltered(file: SourceFile) -> bool:
    return hashlib.sha256(file.text.encode()).hexdigest() == file.sha256


def corpus_lines(files: list[SourceFile]) -> bytes:
    """The content of a corpus file: one program a line, as JSON."""
    return "".join(json.dumps(asdict(file), ensure_ascii=False) + "\n" for file in files).encode()
