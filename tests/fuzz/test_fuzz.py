"""A fixed seed's mutants of checkpoints, bundles, sessions and requests end in one line or change nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from tests.fuzz import mutations
from tests.fuzz.children import in_child
from tests.imports import REPOSITORY

FIXED_SEED = 20
# torch is not imported for these: a checkpoint is read with it.
WITHOUT_TORCH = "bundle bundle.json,graph vouched,tokenizer.json vouched,weights hashed,session,requests"


def fuzzed(tmp_path: Path, *options: str) -> dict[str, object]:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(FIXED_SEED), "--json", str(result), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"seed {FIXED_SEED}" in done.stdout
    found: dict[str, object] = json.loads(result.read_text())
    assert found["failures"] == []
    return found


def test_mutants_end_well(tmp_path: Path, tiny_checkpoint: Path, tiny_bundle: Bundle) -> None:
    originals = ["--checkpoint", str(tiny_checkpoint), "--bundle", str(tiny_bundle.path)]
    fuzzed(tmp_path, *originals, "--seconds", "3", "--mutants", "60", "--only", WITHOUT_TORCH)


@pytest.mark.long
def test_many_mutants_end_well(tmp_path: Path) -> None:
    found = fuzzed(tmp_path, "--seconds", "20")
    assert isinstance(found["mutants"], int)
    assert found["mutants"] > 100


def test_the_same_seed_makes_the_same_mutant() -> None:
    content = json.dumps({"a": [1, 2, {"b": "text"}], "n_layer": 3}).encode()
    for change in (mutations.json_changed, mutations.bytes_changed, mutations.bits_flipped):
        first, again, other = (change(content, random.Random(seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != content or other != content


def raises(error: BaseException) -> str:
    raise error


def hangs() -> str:
    while True:
        pass


def test_a_child_tells_how_it_ended() -> None:
    two_lines = InvalidInputError()
    two_lines.args = ("two\nlines",)  # what none of ours has by itself
    assert in_child(lambda: "x" * 200_000, seconds=10).words == "x" * 200_000
    assert in_child(lambda: raises(InvalidInputError("a line")), seconds=10).outcome == "error"
    assert in_child(lambda: raises(two_lines), seconds=10).outcome == "several lines"
    assert in_child(lambda: raises(OSError(28, "full")), seconds=10).outcome == "system error"
    assert in_child(lambda: raises(ValueError("a fault")), seconds=10).outcome == "traceback"
    assert in_child(lambda: raises(KeyboardInterrupt()), seconds=10).outcome == "traceback"
    assert in_child(lambda: str(os.abort()), seconds=10).outcome == "crash"
    assert in_child(lambda: str(os._exit(3)), seconds=10).outcome == "crash"
    assert in_child(hangs, seconds=0.2).outcome == "hang"
    assert in_child(lambda: str(len(bytearray(1 << 30))), seconds=10, memory_bytes=1 << 28).outcome == "traceback"
