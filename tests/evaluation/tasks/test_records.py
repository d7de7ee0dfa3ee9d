from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.records import Record, read_records


def test_lines_are_read_plain_and_compressed_whatever_the_name(tmp_path: Path) -> None:
    content = '{"a": 1}\n\n  \n{"a": "é\u2028x"}\r\n'.encode()
    plain, packed = tmp_path / "data.gz", tmp_path / "data.jsonl"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    for path in (plain, packed):
        assert list(read_records(path)) == [
            Record(where=f"{path}, line 1", fields={"a": 1}),
            Record(where=f"{path}, line 4", fields={"a": "é\u2028x"}),
        ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "no JSON"),
        (b"[1]", "a JSON object was expected, got list"),
        (b'{"a": "\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line)
    with pytest.raises(InvalidInputError, match=f"data.jsonl, line 2: {problem}"):
        list(read_records(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="missing.jsonl cannot be read: No such file"):
        list(read_records(tmp_path / "missing.jsonl"))
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for damaged in (whole[:-12], whole[:20] + b"\xff\xff\xff" + whole[23:], whole[:-8] + bytes(8)):
        path = tmp_path / "data.jsonl.gz"
        path.write_bytes(damaged)
        with pytest.raises(InvalidInputError, match="data.jsonl.gz (is damaged|cannot be read)"):
            list(read_records(path))


def test_fields_are_checked() -> None:
    record = Record(where="f, line 3", fields={"text": "x", "number": 1, "empty": []})
    assert record.text("text") == "x"
    with pytest.raises(InvalidInputError, match='^f, line 3: "other" is missing$'):
        record.value("other")
    with pytest.raises(InvalidInputError, match='^f, line 3: "number" must be a text, got int$'):
        record.text("number")
    for name in ("empty", "number"):
        with pytest.raises(InvalidInputError, match="must be a list of at least one element"):
            record.values(name)
