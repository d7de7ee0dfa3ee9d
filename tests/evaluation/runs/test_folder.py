"""A results folder: every sample once, through kills, full disks and second runs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError, StorageError
from codegen_edge.evaluation.runs import Configuration, RunFolder, SampleLine, VerdictLine
from codegen_edge.evaluation.runs.lines import LinesFile

CONFIGURATION = Configuration(task="ends", fields={"seed": 7, "bundle": "abc"}, about={"bundle": "my-bundle"})


def line(number: int, text: str = "x = 1") -> SampleLine:
    return SampleLine(task_id=f"end/{number}", sample=0, completions=(text,), num_tokens=3, finish_reason="stop")


def verdict(number: int) -> VerdictLine:
    return VerdictLine(task_id=f"end/{number}", sample=0, passed=False, kind="text", message="no")


def test_lines_come_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = [line(0, "é\ud800\n\x00"), SampleLine(task_id="end/1", sample=2, completions=None, finish_reason="context")]
    with RunFolder.opened(out, CONFIGURATION) as folder:
        folder.add_samples(lines, seconds=1.5)
        folder.add_verdicts([verdict(0)], seconds=0.5)
    with RunFolder.opened(out, CONFIGURATION) as folder:
        assert list(folder.samples.values()) == lines
        assert list(folder.verdicts.values()) == [verdict(0)]
        assert folder.timings() == {
            "samples": 2,
            "tokens": 3,
            "sampling_seconds": 1.5,
            "verdicts": 1,
            "execution_seconds": 0.5,
        }
    first = json.loads((out / "samples.jsonl").read_bytes().splitlines()[0])
    assert first["seed"] == 7
    assert first["configuration"] == CONFIGURATION.hash


def test_line_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    with RunFolder.opened(tmp_path / "out", CONFIGURATION) as folder:
        folder.add_samples([line(0), line(1)])
        folder.add_samples([line(1, "other"), line(2)])
        assert [each.completions for each in folder.samples.values()] == [("x = 1",)] * 3
    assert len((tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_torn_last_line_is_cut_off(tmp_path: Path, left: int) -> None:
    with RunFolder.opened(tmp_path / "out", CONFIGURATION) as folder:
        folder.add_samples([line(0), line(1)])
    file = tmp_path / "out" / "samples.jsonl"
    data = file.read_bytes()
    file.write_bytes(data + data[:left])
    with RunFolder.opened(tmp_path / "out", CONFIGURATION) as folder:
        assert len(folder.samples) == 2
        folder.add_samples([line(2)])
    assert [json.loads(each)["task_id"] for each in file.read_bytes().splitlines()] == ["end/0", "end/1", "end/2"]


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LinesFile(tmp_path / "lines.jsonl")
    file.append([{"a": 1}])

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="no room left"):
            file.append([{"b": 2}])
    assert file.read() == [{"a": 1}]
    file.append([{"b": 2}])
    assert file.read() == [{"a": 1}, {"b": 2}]


def test_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with RunFolder.opened(tmp_path / "out", CONFIGURATION) as folder:
        folder.add_samples([line(0)])
    other = Configuration(task="ends", fields={"seed": 8, "bundle": "abc"}, about={})
    with (
        pytest.raises(InvalidInputError, match=r"another configuration \(seed 7 instead of 8\)"),
        RunFolder.opened(tmp_path / "out", other),
    ):
        pass
    assert len((tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()) == 1


def test_about_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    with RunFolder.opened(tmp_path / "out", CONFIGURATION):
        pass
    other = Configuration(task="ends", fields=CONFIGURATION.fields, about={"bundle": "renamed"})
    with RunFolder.opened(tmp_path / "out", other):
        pass


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples.jsonl", b"{\n"),
        ("samples.jsonl", b"[1]\n"),
        ("samples.jsonl", b'{"task_id": "end/0"}\n'),
        ("verdicts.jsonl", b'\xff\xfe\n{"a": 1}\n'),
        ("configuration.json", b"{"),
        ("configuration.json", b"[]"),
    ],
)
def test_damaged_folder_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    out = tmp_path / "out"
    with RunFolder.opened(out, CONFIGURATION):
        pass
    (out / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=name) as caught, RunFolder.opened(out, CONFIGURATION):
        pass
    assert "\n" not in str(caught.value)


def test_damaged_line_of_this_configuration_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with RunFolder.opened(out, CONFIGURATION):
        pass
    (out / "samples.jsonl").write_text(json.dumps({"task_id": 3, "configuration": CONFIGURATION.hash}) + "\n")
    with pytest.raises(InvalidInputError, match="line 1: damaged"), RunFolder.opened(out, CONFIGURATION):
        pass


@pytest.mark.parametrize("kind", ["file", "other folder", "no parent"])
def test_place_that_cannot_be_used_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "other folder":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    else:
        out = tmp_path / "nowhere" / "out"
    with pytest.raises(InvalidInputError), RunFolder.opened(out, CONFIGURATION):
        pass
    assert kind != "other folder" or [path.name for path in out.iterdir()] == ["notes.txt"]


def test_second_run_in_a_folder_is_refused_while_the_first_one_works(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from codegen_edge.evaluation.runs import Configuration, RunFolder
with RunFolder.opened(Path(sys.argv[1]), Configuration(task="ends", fields={"seed": 7, "bundle": "abc"}, about={})):
    print("open", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with (
            pytest.raises(InvalidInputError, match="another run works in"),
            RunFolder.opened(tmp_path / "out", CONFIGURATION),
        ):
            pass
        process.kill()
        process.wait()
    with RunFolder.opened(tmp_path / "out", CONFIGURATION):  # what died holds nothing
        pass


def test_finished_folder_is_in_order(tmp_path: Path) -> None:
    results: dict[str, Any] = {"task": "ends"}
    with RunFolder.opened(tmp_path / "out", CONFIGURATION) as folder:
        folder.add_samples([line(2), line(0), line(1)])
        folder.add_verdicts([verdict(1), verdict(2), verdict(0)])
        folder.finish(results, [(f"end/{number}", 0) for number in range(3)])
    for name in ("samples.jsonl", "verdicts.jsonl"):
        lines = [json.loads(each) for each in (tmp_path / "out" / name).read_bytes().splitlines()]
        assert [each["task_id"] for each in lines] == ["end/0", "end/1", "end/2"]
    assert json.loads((tmp_path / "out" / "results.json").read_bytes()) == results
