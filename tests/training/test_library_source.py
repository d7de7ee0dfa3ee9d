from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from codegen_edge.checkpoints.corpora import SourceFile, load_corpus
from codegen_edge.errors import IntegrityError, InvalidInputError
from training.corpora import SPLIT_OF, corpus_lines, sample
from training.library_source import fingerprint, read_library


def write_library(folder: Path, count: int = 300) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"module_{number:03d}.py").write_text(f"def value():\n    return {number}\n")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    write_library(tmp_path / "Lib")
    return tmp_path / "Lib"


def test_every_split_gets_its_share_by_the_hash_of_the_content(library: Path) -> None:
    files = read_library(library, least_bytes=1)
    shares = {name: sum(file.split == name for file in files) / len(files) for name in ("train", "held-out")}
    assert 0.85 < shares["train"] < 0.97
    assert 0.01 < shares["held-out"] < 0.09
    moved = SourceFile("elsewhere.py", files[0].sha256, files[0].text)
    assert moved.split == files[0].split


def test_copies_installed_packages_and_undecodable_files_are_left_out(library: Path) -> None:
    before = read_library(library, least_bytes=1)
    (library / "zz_copy.py").write_text((library / "module_000.py").read_text())
    (library / "bad.py").write_bytes(b"# coding: utf-8\nx = '\xff'\n")
    (library / "unknown.py").write_bytes(b"# coding: no-such-encoding\n")
    (library / "empty.py").write_bytes(b"")
    (library / "site-packages").mkdir()
    (library / "site-packages" / "other.py").write_text("installed = True\n")
    assert read_library(library, least_bytes=1) == before


def test_declared_encodings_are_obeyed(library: Path) -> None:
    (library / "latin.py").write_bytes("# coding: latin-1\nname = 'Grüße'\n".encode("latin-1"))
    (latin,) = [file for file in read_library(library, least_bytes=1) if file.path == "latin.py"]
    assert "Grüße" in latin.text


def test_library_without_source_is_refused_in_one_line(library: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"0\.0 MB of Python source.*without its library's source") as caught:
        read_library(library)
    assert "\n" not in str(caught.value)


def test_fingerprint_tells_another_file_and_another_path(library: Path) -> None:
    before = fingerprint(read_library(library, least_bytes=1))
    (library / "module_000.py").rename(library / "moved.py")
    renamed = fingerprint(read_library(library, least_bytes=1))
    (library / "moved.py").write_text("changed = True\n")
    assert len({before, renamed, fingerprint(read_library(library, least_bytes=1))}) == 3


@pytest.mark.parametrize("name", SPLIT_OF)
def test_sample_round_trips_and_holds_files_of_its_split_only(name: str, library: Path, tmp_path: Path) -> None:
    (library / "crlf.py").write_bytes(b"a = 1\r\nb = 2\r\n")  # its text has not its hash
    chosen = sample(read_library(library, least_bytes=1), name)  # type: ignore[arg-type]
    assert chosen
    assert {file.split for file in chosen} == {SPLIT_OF[name]}  # type: ignore[index]
    (tmp_path / f"{name}.jsonl").write_bytes(corpus_lines(chosen))
    assert load_corpus(name, tmp_path) == chosen  # type: ignore[arg-type]


def test_sample_is_bounded(tmp_path: Path) -> None:
    files = []
    for number in range(8000):
        text = f"# {number}\n" + "x = 1\n" * (500 if number % 2 else 20_000)
        files.append(SourceFile(f"{number}.py", hashlib.sha256(text.encode()).hexdigest(), text))
    chosen = sample(files, "held-out")
    sizes = [len(file.text.encode()) for file in chosen]
    assert 256 * 1024 <= sum(sizes) < 260 * 1024
    assert max(sizes) <= 64 * 1024


def test_altered_corpus_is_refused(library: Path, tmp_path: Path) -> None:
    chosen = sample(read_library(library, least_bytes=1), "held-out")
    path = tmp_path / "held-out.jsonl"
    path.write_bytes(corpus_lines(chosen).replace(b"return", b"yield_", 1))
    with pytest.raises(IntegrityError, match="was altered"):
        load_corpus("held-out", tmp_path)
    path.write_text("{")
    with pytest.raises(IntegrityError, match="is damaged"):
        load_corpus("held-out", tmp_path)
    with pytest.raises(IntegrityError, match="calibration.jsonl is damaged"):
        load_corpus("calibration", tmp_path)
