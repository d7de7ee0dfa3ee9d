"""`load_model`: the weights are compared while the runtime reads them, and no model of others is handed out."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from codegen_edge import load_model, open_bundle
from codegen_edge.bundle import Bundle, contract, file_check, storage
from codegen_edge.errors import BackendError, IntegrityError
from codegen_edge.generation import model as model_module
from codegen_edge.generation.model import Model
from codegen_edge.runtimes import open_runtime
from codegen_edge.tokenizer import Tokenizer


@pytest.fixture
def altered(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle one byte of whose weights is another one."""
    path = tmp_path / "altered"
    shutil.copytree(tiny_bundle.path, path)
    weights = path / contract.WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runtimes that were opened, in order."""
    runtimes: list[Any] = []

    def open_and_keep(*arguments: Any, **options: Any) -> Any:
        runtimes.append(open_runtime(*arguments, **options))
        return runtimes[-1]

    monkeypatch.setattr(model_module, "open_runtime", open_and_keep)
    return runtimes


@pytest.fixture
def is_open(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a runtime has been opened."""
    event = threading.Event()

    def open_and_say(*arguments: Any, **options: Any) -> Any:
        runtime = open_runtime(*arguments, **options)
        event.set()
        return runtime

    monkeypatch.setattr(model_module, "open_runtime", open_and_say)
    return event


def test_altered_weights_are_found_after_the_runtime_read_them(
    tiny_bundle: Bundle, altered: Path, opened: list[Any]
) -> None:
    with pytest.raises(IntegrityError, match="altered"):
        load_model(altered)
    (runtime,) = opened
    with pytest.raises(BackendError, match="closed"):
        Model(tiny_bundle, runtime, Tokenizer(tiny_bundle.tokenizer_path)).generate("a", max_new_tokens=1)


def test_sizes_alone_are_compared_when_asked(altered: Path) -> None:
    load_model(altered, check="size").close()


def test_altered_weights_are_the_reason_that_is_named(altered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BackendError("these weights make no sense")

    monkeypatch.setattr(model_module, "open_runtime", refuse)
    with pytest.raises(IntegrityError, match="altered"):
        load_model(altered)


def test_another_error_stays_what_it_is(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BackendError("no such device")

    monkeypatch.setattr(model_module, "open_runtime", refuse)
    with pytest.raises(BackendError, match="no such device"):
        load_model(tiny_bundle.path)


def test_runtime_opens_while_the_weights_are_compared(
    tiny_bundle: Bundle, is_open: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = file_check._compare

    def compare_late(file: Any, held: Any, name: str, record: Any) -> None:
        if name == contract.WEIGHTS_FILE:
            assert is_open.wait(60)
        compare(file, held, name, record)

    monkeypatch.setattr(file_check, "_compare", compare_late)
    with load_model(tiny_bundle.path) as model:
        assert model.generate("def f", max_new_tokens=2).text


def test_weights_that_cannot_be_read_are_named(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = file_check._compare

    def fail(file: Any, held: Any, name: str, record: Any) -> None:
        if name == contract.WEIGHTS_FILE:
            raise OSError(5, "Input/output error")
        compare(file, held, name, record)

    monkeypatch.setattr(file_check, "_compare", fail)
    with pytest.raises(IntegrityError, match="Input/output error"):
        load_model(tiny_bundle.path)


def test_weights_that_were_put_right_before_they_were_compared_are_refused(
    tiny_bundle: Bundle, altered: Path, is_open: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = file_check._compare

    def compare_late(file: Any, held: Any, name: str, record: Any) -> None:
        if name == contract.WEIGHTS_FILE:
            assert is_open.wait(60)
            (altered / name).write_bytes((tiny_bundle.path / name).read_bytes())
        compare(file, held, name, record)

    monkeypatch.setattr(file_check, "_compare", compare_late)
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        load_model(altered)


def test_bundle_that_is_replaced_while_its_weights_are_compared_is_opened_anew(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fresh = tmp_path / "place", tmp_path / "fresh"
    shutil.copytree(tiny_bundle.path, place)
    shutil.copytree(tiny_bundle.path, fresh)
    (fresh / "README.md").unlink()
    manifest = json.loads((fresh / "bundle.json").read_text())
    del manifest["files"]["README.md"]
    (fresh / "bundle.json").write_text(json.dumps(manifest))
    compare, is_replaced = file_check._compare, threading.Event()

    def replace_first(file: Any, held: Any, name: str, record: Any) -> None:
        if name == contract.WEIGHTS_FILE and not is_replaced.is_set():
            is_replaced.set()
            assert storage._exchange(place, fresh)
            shutil.rmtree(fresh)
        compare(file, held, name, record)

    monkeypatch.setattr(file_check, "_compare", replace_first)
    assert "README.md" not in open_bundle(place).manifest.files
