"""The training command, end to end on a small library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codegen_edge.errors import CheckpointError, InvalidInputError, RuntimeUnavailableError, StorageError
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.exporter import export_checkpoint, locate_checkpoint, open_checkpoint
from training import train as train_module

from .test_library_source import write_library

SHAPE = {
    "--n-layer": 2,
    "--n-embd": 64,
    "--n-head": 4,
    "--rotary-dim": 16,
    "--n-positions": 32,
    "--vocab-size": 640,
    "--tokenizer-vocab-size": 400,
    "--batch-size": 4,
}


def arguments(tmp_path: Path, **changed: object) -> list[str]:
    options = {
        **SHAPE,
        "--steps": 4,
        "--second-steps": 2,
        "--work": tmp_path / "work",
        "--out": tmp_path / "out" / "codegen-tiny",
        "--library": tmp_path / "Lib",
    }
    options |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [str(part) for option in options.items() for part in option if option[1] is not None]


def train(tmp_path: Path, **changed: object) -> None:
    train_module.main.main(arguments(tmp_path, **changed), standalone_mode=False)


@pytest.fixture(autouse=True)
def handlers() -> object:
    """Put back the signal handlers that a run replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.long
def test_writes_a_checkpoint_that_exports_and_verifies_with_its_card_and_corpora(tmp_path: Path) -> None:
    write_library(tmp_path / "Lib")
    train(tmp_path)
    out = tmp_path / "out" / "codegen-tiny"
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "README.md",
    } <= {path.name for path in out.iterdir()}
    assert {"held-out.jsonl", "calibration.jsonl"} <= {path.name for path in (tmp_path / "out" / "corpora").iterdir()}
    record = json.loads((out / "training.json").read_text())
    assert f"{record['held_out_sample']['bits_per_byte']:.4f}" in (out / "README.md").read_text()
    assert [row["step"] for row in record["log"]] == [6]
    bundle = export_checkpoint(locate_checkpoint(str(out)), tmp_path / "bundle")
    assert verify_bundle(bundle, open_checkpoint(out), num_steps=4, prompts=["def f(x):"]).is_equal


@pytest.mark.long
def test_interrupted_run_ends_with_130_and_goes_on(tmp_path: Path) -> None:
    write_library(tmp_path / "Lib")
    command = [sys.executable, "-m", "training.train", *arguments(tmp_path, steps=100_000)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        log = tmp_path / "work" / "log.jsonl"
        deadline = time.monotonic() + 200
        while not (log.exists() and log.read_text()) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        message = running.communicate()[1]
    assert running.returncode == 130, message
    assert "the same command goes on from there" in message
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows[0]["step"] == 100
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert again.stderr is not None
        line = again.stderr.readline()
    finally:
        again.kill()
        again.communicate()
    assert "going on from step" in line


def test_state_of_another_shape_is_one_line_and_exit_2(tmp_path: Path) -> None:
    write_library(tmp_path / "Lib")
    train(tmp_path, steps=1)
    with pytest.raises(CheckpointError, match="another shape: n_layer 2, now 1"):
        train(tmp_path, steps=1, n_layer=1)
    command = [sys.executable, "-m", "training.train", *arguments(tmp_path, steps=1, n_layer=1)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_missing_matplotlib_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match="pip install matplotlib"):
        train(tmp_path)


def test_interpreter_without_its_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "standard_library", lambda: tmp_path / "python.zip")
    with pytest.raises(InvalidInputError, match="came without its library's source"):
        train(tmp_path, library=None)
    (tmp_path / "stripped").mkdir()
    monkeypatch.setattr(train_module, "standard_library", lambda: tmp_path / "stripped")
    with pytest.raises(InvalidInputError, match=r"0\.0 MB of Python source"):
        train(tmp_path, library=None)


@pytest.mark.parametrize("option", ["work", "out"])
def test_folder_that_cannot_be_written_is_told_before_training(option: str, tmp_path: Path) -> None:
    write_library(tmp_path / "Lib")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot make the folder"):
        train(tmp_path, **{option: tmp_path / "file" / "below" / "deeper"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_told_before_training(tmp_path: Path) -> None:
    write_library(tmp_path / "Lib")
    (tmp_path / "work").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot write"):
        train(tmp_path)
