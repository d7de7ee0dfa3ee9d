"""Choosing the texts that ship from the library's files."""

from __future__ import annotations

import json
from dataclasses import asdict

from codegen_edge.checkpoints.corpora import CorpusName, SourceFile, Split

# Calibration looks at text, as choosing settings does: its files come from what training was watched with.
SPLIT_OF: dict[CorpusName, Split] = {"held-out": "held-out", "calibration": "validation"}
_SAMPLE_BYTES = 256 * 1024
_LARGEST_FILE_BYTES = 64 * 1024  # so that no program is more than a quarter of a sample


def sample(files: list[SourceFile], name: CorpusName) -> list[SourceFile]:
    """Programs of the corpus's split in the order of their hashes, which is no order of theirs, some 256 KiB.

    Files in another encoding than UTF-8 or with other line ends are passed over: their text alone has not their hash.
    """
    chosen, size_bytes = [], 0
    for file in sorted(files, key=lambda file: file.sha256):
        length = len(file.text.encode())
        if file.split == SPLIT_OF[name] and length <= _LARGEST_FILE_BYTES and file.is_unaltered:
            chosen.append(file)
            size_bytes += length
            if size_bytes >= _SAMPLE_BYTES:
                break
    return chosen


def corpus_lines(files: list[SourceFile]) -> bytes:
    """The content of a corpus file: one program a line, as JSON."""
    return "".join(json.dumps(asdict(file), ensure_ascii=False) + "\n" for file in files).encode()
