"""Rows W14 and P15: bundles that are replaced, and bytes that change, while somebody loads them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from codegen_edge import load_model, open_bundle
from codegen_edge.bundle import Bundle, contract, held, opened
from codegen_edge.bundle.file_check import BackgroundCheck
from codegen_edge.bundle.weights import load_graph
from codegen_edge.errors import BundleError, IntegrityError
from codegen_edge.generation import model as model_module
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends import ort_cpu
from tests.failures.altering import vouch, weight_of

LOADS = 40
PROMPT = "def f"

# Swaps two folders, or replaces one by a copy of the other and removes the old one, as fast as it can.
SWAPPER = """
import shutil, sys
from pathlib import Path
from codegen_edge.bundle import storage
way, place, first, second = sys.argv[1], *map(Path, sys.argv[2:])
print("ready", flush=True)
number = 0
while True:
    number += 1
    if way == "exchange":
        assert storage._exchange(place, second)
    else:
        with storage.staged_folder(place, overwrite=True) as stage:
            shutil.copytree((first, second)[number % 2], stage, dirs_exist_ok=True)
"""


def with_other_weights(bundle: Path, out: Path) -> Path:
    """A bundle of the same shape whose logits are others."""
    shutil.copytree(bundle, out)
    model = onnx.load(str(out / contract.MODEL_FILE), load_external_data=False)
    offset = next(int(entry.value) for entry in weight_of(model, "lm_head.bias").external_data if entry.key == "offset")
    with (out / contract.WEIGHTS_FILE).open("r+b") as file:
        file.seek(offset)
        file.write(np.float32(1000).tobytes())
    vouch(out)
    return out


@contextmanager
def swapping(way: str, place: Path, first: Path, second: Path) -> Iterator[None]:
    command = [sys.executable, "-c", SWAPPER, way, str(place), str(first), str(second)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def logits_of(folder: Path) -> tuple[str, bytes]:
    with load_model(folder, threads=1) as model:
        ids = np.array([model.tokenizer.encode(PROMPT)], np.int64)
        logits = model.runtime.step(ids, model.runtime.new_cache(1, ids.shape[1]))
        return model.bundle.fingerprint, logits.tobytes()


@pytest.mark.parametrize("way", ["exchange", "replace"])
def test_W14_a_load_under_a_swapping_writer_never_mixes(
    way: str, tiny_bundle: Bundle, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    first, second = Path(shutil.copytree(tiny_bundle.path, tmp_path / "first")), tmp_path / "second"
    with_other_weights(first, second)
    expected = dict(map(logits_of, (first, second)))
    assert len(set(expected.values())) == 2
    place = Path(shutil.copytree(first, tmp_path / "place"))
    spare = Path(shutil.copytree(second, tmp_path / "spare"))
    seen: dict[str, int] = {}
    refused = 0
    with swapping(way, place, first, spare if way == "exchange" else second):
        for _ in range(LOADS):
            try:
                fingerprint, logits = logits_of(place)
            except BundleError:
                refused += 1
                continue
            assert logits == expected[fingerprint], "the manifest of one bundle with the weights of the other"
            seen[fingerprint] = seen.get(fingerprint, 0) + 1
    record_property(f"W14 ({way})", f"{LOADS} loads, 0 mixed, {refused} refused, by bundle {sorted(seen.values())}")
    if way == "exchange":
        assert refused == 0
    assert sum(seen.values()) + refused == LOADS


def exchange_when(target: object, name: str, first: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchange two folders at the moment that a function is called."""
    call = getattr(target, name)

    def exchanging(*arguments: object, **options: object) -> object:
        os.rename(first, first.with_name("aside"))
        os.rename(second, first)
        os.rename(first.with_name("aside"), second)
        return call(*arguments, **options)

    monkeypatch.setattr(target, name, exchanging)


def test_W14_folder_exchanged_before_the_weights_are_opened_is_the_one_that_was_checked(
    tiny_bundle: Bundle, bundle_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_other_weights(tiny_bundle.path, tmp_path / "other")
    expected = logits_of(tiny_bundle.path)
    exchange_when(ort_cpu, "open_session", bundle_copy.path, other, monkeypatch)
    assert logits_of(bundle_copy.path) == expected


@pytest.mark.parametrize("name", ["open_session", "rows_meet"])
def test_W14_without_proc_an_exchange_is_refused_or_loaded_anew(
    name: str, tiny_bundle: Bundle, bundle_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_other_weights(tiny_bundle.path, tmp_path / "other")
    expected = dict([logits_of(tiny_bundle.path), logits_of(other)])
    monkeypatch.setattr(held, "_DESCRIPTORS", tmp_path / "no proc")
    opened_by_path = open_bundle(bundle_copy.path)
    assert opened_by_path.held is not None
    assert not opened_by_path.held.is_pinned
    open_runtime("cpu", opened_by_path, threads=1).close()
    with monkeypatch.context() as patched:
        exchange_when(ort_cpu, name, bundle_copy.path, other, patched)
        with pytest.raises(IntegrityError, match="was replaced while it was read"):
            open_runtime("cpu", opened_by_path, threads=1)
    fingerprint, logits = logits_of(bundle_copy.path)
    assert logits == expected[fingerprint]


def test_W14_bundle_that_was_removed_for_a_new_one_is_loaded_anew(
    tiny_bundle: Bundle, bundle_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_other_weights(tiny_bundle.path, tmp_path / "other")
    expected = logits_of(other)
    calls: list[str] = []

    def replaced_meanwhile(name: str, bundle: Bundle, **options: object) -> object:
        calls.append(name)
        if len(calls) == 1:
            shutil.rmtree(bundle_copy.path)
            os.rename(other, bundle_copy.path)
        return open_runtime(name, bundle, **options)

    monkeypatch.setattr(model_module, "open_runtime", replaced_meanwhile)
    assert logits_of(bundle_copy.path) == expected
    assert len(calls) == 2


def test_W14_bundle_that_is_always_removed_is_refused(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def removing(*arguments: Any) -> object:
        fresh = shutil.copytree(bundle_copy.path, bundle_copy.path.with_name("fresh"))
        shutil.rmtree(bundle_copy.path)
        os.rename(fresh, bundle_copy.path)
        return BackgroundCheck(*arguments)

    monkeypatch.setattr(opened, "BackgroundCheck", removing)
    with pytest.raises(IntegrityError, match="missing"):
        open_bundle(bundle_copy.path)


def test_W14_folder_that_was_away_for_a_moment_is_loaded_anew(
    bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime compares paths that it resolved one after the other, and takes a rename between for an escape."""
    expected = logits_of(bundle_copy.path)
    opener = open_session
    calls: list[Any] = []

    def renamed_and_back(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            time.sleep(0.01)  # file systems count time in ticks
            os.rename(bundle_copy.path, bundle_copy.path.with_name("aside"))
            os.rename(bundle_copy.path.with_name("aside"), bundle_copy.path)
            raise BundleError("External data path escapes model directory")
        return opener(*arguments, **options)

    monkeypatch.setattr(ort_cpu, "open_session", renamed_and_back)
    assert logits_of(bundle_copy.path) == expected
    assert len(calls) == 2


def test_W14_verdict_goes_to_the_bundle_that_was_verified(
    bundle_copy: Bundle, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    verified = open_bundle(bundle_copy.path)
    os.rename(bundle_copy.path, tmp_path / "old")
    shutil.copytree(tiny_bundle.path, bundle_copy.path)
    with pytest.raises(BundleError, match="was replaced meanwhile"):
        verified.record_parity({"verdict": "equal"})
    assert json.loads((bundle_copy.path / "bundle.json").read_text())["parity"] is None


@pytest.mark.parametrize("name", [contract.MODEL_FILE, contract.WEIGHTS_FILE])
@pytest.mark.parametrize("reader", ["runtime", "exact steps", "graph"])
def test_P15_bytes_that_change_between_check_and_load_are_refused(name: str, reader: str, bundle_copy: Bundle) -> None:
    path = bundle_copy.path / name
    content = path.read_bytes()
    checked = open_bundle(bundle_copy.path)
    time.sleep(0.01)  # file systems count time in ticks
    path.write_bytes(content)  # the same bytes: what was changed is not looked at, that it was changed is enough
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        if reader == "graph":
            load_graph(checked)
        else:
            open_runtime("cpu", checked, exact_steps=reader == "exact steps")


def test_P15_file_swapped_for_a_link_between_check_and_load_is_refused(bundle_copy: Bundle, tmp_path: Path) -> None:
    checked = open_bundle(bundle_copy.path)
    path = bundle_copy.path / contract.WEIGHTS_FILE
    outside = tmp_path / "outside"
    shutil.copyfile(path, outside)
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(BundleError):
        open_runtime("cpu", checked)
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        load_graph(checked)


def test_P15_small_file_that_changes_is_not_copied(bundle_copy: Bundle) -> None:
    checked = open_bundle(bundle_copy.path)
    (bundle_copy.path / "README.md").write_text("other")
    with pytest.raises(IntegrityError, match=r"README\.md was changed while it was read"):
        checked.read("README.md")


def test_W14_copies_of_an_opened_bundle_are_held_as_well(bundle_copy: Bundle) -> None:
    checked = open_bundle(bundle_copy.path)
    copies = [copy.copy(checked), copy.deepcopy(checked), pickle.loads(pickle.dumps(checked))]
    for each in copies:
        assert each == checked
        assert each.read("config.json") == (checked.path / "config.json").read_bytes()
    del checked
    (bundle_copy.path / "config.json").write_text("{}")
    for each in copies:
        with pytest.raises(IntegrityError, match="was changed while it was read"):
            each.read("config.json")


def test_R05_descriptors_of_bundles_are_let_go(tiny_bundle: Bundle) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    open_bundle(tiny_bundle.path)
    before = count()
    for _ in range(20):
        open_bundle(tiny_bundle.path, check="size")
    assert count() == before
