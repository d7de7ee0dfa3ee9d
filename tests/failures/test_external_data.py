"""Rows P01–P17: where a graph's weights lie, and what a link leads to."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from codegen_edge import load_model, open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.bundle.graph_file import read_model
from codegen_edge.errors import BundleError, IntegrityError
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.quantization.calibration import Calibration
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from codegen_edge.runtimes.builders import build_half
from tests.failures.altering import alter_graph, drop_entry, external, set_entry, vouch, weight_of

HEAD = "lm_head.weight"
DATA = "onnx/model.onnx_data"
DOCUMENTS = [np.arange(1, 33, dtype=np.int64)]

OPENED: list[str] = []


def record_opens(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(record_opens)

# Everything that reads a graph, of a folder and of a bundle that was opened by path alone.
READERS: dict[str, Callable[[Path, Path], object]] = {
    "open_bundle": lambda folder, out: open_bundle(folder),
    "open_bundle by size": lambda folder, out: open_bundle(folder, check="size"),
    "load_model": lambda folder, out: load_model(folder).close(),
    "exact steps": lambda folder, out: load_model(folder, exact_steps=True).close(),
    "float activations": lambda folder, out: OrtCpuRuntime(unchecked(folder), rounds_activations=False).close(),
    "exact steps, unchecked": lambda folder, out: open_runtime("cpu", unchecked(folder), exact_steps=True).close(),
    "quantize": lambda folder, out: quantize_bundle(open_bundle(folder), out, QuantizeOptions(scheme="int8")),
    "quantize, unchecked": lambda folder, out: quantize_bundle(unchecked(folder), out, QuantizeOptions(scheme="int8")),
    "calibration": lambda folder, out: Calibration(unchecked(folder), DOCUMENTS).second_moment(HEAD),
    "build": lambda folder, out: build_half(open_bundle(folder), out),
    "build, unchecked": lambda folder, out: build_half(unchecked(folder), out),
}


def unchecked(folder: Path) -> Bundle:
    """A bundle whose files nobody looked at."""
    from codegen_edge.bundle import Manifest

    return Bundle(folder, Manifest.from_dict(json.loads((folder / "bundle.json").read_text())))


def refused_by_all(folder: Path, out: Path, names: str, readers: tuple[str, ...] = ("open_bundle", "")) -> None:
    """Every reader refuses the bundle with one line that names the tensor, and writes nothing."""
    for reader in readers if readers[-1] else ("open_bundle", "quantize, unchecked"):
        with pytest.raises(BundleError) as refused:
            READERS[reader](folder, out)
        message = str(refused.value)
        assert names in message, f"{reader}: {message}"
        assert "\n" not in message
        assert len(message) < 400
        assert not out.exists()


def set_location(value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda model: set_entry(weight_of(model), "location", value)


@pytest.mark.parametrize("reader", READERS)
def test_P01_absolute_location_is_refused_by_every_reader(reader: str, bundle_copy: Bundle, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle_copy.path / DATA).read_bytes())
    alter_graph(bundle_copy.path, set_location(str(secret)))
    OPENED.clear()
    refused_by_all(bundle_copy.path, tmp_path / "out", HEAD, (reader,))
    assert str(secret) not in OPENED


@pytest.mark.parametrize(
    ("row", "location"),
    [
        ("P01", "/etc/passwd"),
        ("P01", "/dev/zero"),
        ("P02", "../x"),
        ("P02", "a/../../x"),
        ("P02", "./../x"),
        ("P02", "a//../..//x"),
        ("P02", "..\\x"),
        ("P02", "./model.onnx_data"),
        ("P08", "model.onnx_data\0.txt"),
        ("P08", "model.onnx_data\n"),
        ("P08", "%2e%2e/model.onnx_data"),
        ("P08", "x" * 5000),
        ("P09", ""),
        ("P09", "."),
        ("P09", "missing.onnx_data"),
        ("P09", "model.onnx"),
    ],
)
def test_P02_P08_P09_other_location_is_refused(row: str, location: str, bundle_copy: Bundle, tmp_path: Path) -> None:
    alter_graph(bundle_copy.path, set_location(location))
    OPENED.clear()
    refused_by_all(bundle_copy.path, tmp_path / "out", HEAD)
    assert not location.startswith("/") or location not in OPENED


def test_P08_location_that_is_no_utf8_is_refused(bundle_copy: Bundle, tmp_path: Path) -> None:
    path = bundle_copy.model_path
    content = path.read_bytes().replace(b"model.onnx_data", b"model.onnx_dat\xff", 1)
    path.write_bytes(content)
    vouch(bundle_copy.path)
    refused_by_all(bundle_copy.path, tmp_path / "out", "not UTF-8")


@pytest.mark.parametrize("same_bytes", [True, False])
def test_P03_link_to_the_outside_is_what_its_hash_says(same_bytes: bool, bundle_copy: Bundle, tmp_path: Path) -> None:
    data = bundle_copy.path / DATA
    outside = tmp_path / "outside"
    shutil.move(data, outside)
    if not same_bytes:
        outside.write_bytes(bytes(outside.stat().st_size))
    data.symlink_to(outside)
    if not same_bytes:
        with pytest.raises(IntegrityError, match="altered"):
            open_bundle(bundle_copy.path)
        return
    # onnxruntime takes no data file from outside the folder of a graph; all that we read ourselves is vouched for.
    with pytest.raises(BundleError, match="escapes"):
        load_model(bundle_copy.path)
    quantize_bundle(open_bundle(bundle_copy.path), tmp_path / "out", QuantizeOptions(scheme="int8"))


def test_P04_folder_that_is_a_link_is_what_its_hashes_say(bundle_copy: Bundle, tmp_path: Path) -> None:
    shutil.move(bundle_copy.path / "onnx", tmp_path / "onnx")
    (bundle_copy.path / "onnx").symlink_to(tmp_path / "onnx")
    load_model(bundle_copy.path).close()
    content = bytearray((tmp_path / "onnx" / "model.onnx_data").read_bytes())
    content[0] ^= 1
    (tmp_path / "onnx" / "model.onnx_data").write_bytes(content)
    with pytest.raises(IntegrityError, match="altered"):
        load_model(bundle_copy.path)


def test_P05_link_within_the_bundle_is_read_or_refused_in_one_line(bundle_copy: Bundle, tmp_path: Path) -> None:
    shutil.move(bundle_copy.path / DATA, bundle_copy.path / "weights")
    (bundle_copy.path / DATA).symlink_to("../weights")
    with pytest.raises(BundleError, match=r"onnxruntime .* refuses .*/bundle/onnx/model\.onnx"):
        load_model(bundle_copy.path)
    quantize_bundle(open_bundle(bundle_copy.path), tmp_path / "out", QuantizeOptions(scheme="int8"))


@pytest.mark.parametrize("reader", READERS)
def test_P06_hard_linked_copy_works_everywhere(reader: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    own = shutil.copytree(tiny_bundle.path, tmp_path / "own")  # what other tests read keeps one name
    copy = shutil.copytree(own, tmp_path / "copy", copy_function=os.link)
    assert os.stat(copy / DATA).st_nlink > 1
    READERS[reader](copy, tmp_path / "out")


@pytest.mark.parametrize("reader", READERS)
def test_P07_layout_of_the_hubs_cache_works_everywhere(reader: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    READERS[reader](as_hub_snapshot(tiny_bundle.path, tmp_path / "hub"), tmp_path / "out")


def as_hub_snapshot(bundle: Path, cache: Path) -> Path:
    snapshot, blobs = cache / "snapshots" / "0123456789", cache / "blobs"
    blobs.mkdir(parents=True)
    for file in sorted(bundle.rglob("*")):
        name = file.relative_to(bundle)
        if file.is_file():
            blob = blobs / name.as_posix().replace("/", "-")
            shutil.copyfile(file, blob)
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def move_into(model: onnx.ModelProto, name: str, other: str) -> None:
    """Let a tensor share the bytes of another one."""
    offset = next(entry.value for entry in weight_of(model, other).external_data if entry.key == "offset")
    set_entry(weight_of(model, name), "offset", offset)


def add_many_entries(model: onnx.ModelProto) -> None:
    head = weight_of(model)
    for number in range(10_000):
        head.external_data.add(key=f"key {number}", value="x")


RANGES: dict[str, tuple[str, Callable[[onnx.ModelProto], object]]] = {
    "P10 negative offset": (HEAD, lambda model: set_entry(weight_of(model), "offset", "-4")),
    "P10 offset that is no number": (HEAD, lambda model: set_entry(weight_of(model), "offset", "many")),
    "P10 offset with a blank": (HEAD, lambda model: set_entry(weight_of(model), "offset", " 4096")),
    "P10 offset with underscores": (HEAD, lambda model: set_entry(weight_of(model), "offset", "4_096")),
    "P10 offset in other digits": (HEAD, lambda model: set_entry(weight_of(model), "offset", "٤٠٩٦")),
    "P10 offset 2^62": (HEAD, lambda model: set_entry(weight_of(model), "offset", str(2**62))),
    "P10 offset of 5,000 digits": (HEAD, lambda model: set_entry(weight_of(model), "offset", "9" * 5000)),
    "P10 offset one byte on": (HEAD, lambda model: set_entry(weight_of(model), "offset", "1")),
    "P11 range beyond the file": (HEAD, lambda model: set_entry(weight_of(model), "offset", str(10**7))),
    "P11 length 4": (HEAD, lambda model: set_entry(weight_of(model), "length", "4")),
    "P11 length 2^62": (HEAD, lambda model: set_entry(weight_of(model), "length", str(2**62))),
    "P11 negative length": (HEAD, lambda model: set_entry(weight_of(model), "length", "-1")),
    "P11 no length": (HEAD, lambda model: drop_entry(weight_of(model), "length")),
    "P11 other shape": (HEAD, lambda model: weight_of(model).dims.__setitem__(0, 65)),
    "P11 other dtype": (HEAD, lambda model: setattr(weight_of(model), "data_type", 10)),
    "P11 unknown dtype": (HEAD, lambda model: setattr(weight_of(model), "data_type", 99)),
    "P12 same range twice": (
        "share bytes",
        lambda model: move_into(model, "transformer.h.0.ln_1.bias", "transformer.ln_f.bias"),
    ),
    "P12 overlap": ("share bytes", lambda model: move_into(model, HEAD, "transformer.wte.weight")),
    "P13 unknown key": (HEAD, lambda model: set_entry(weight_of(model), "__class__", "x")),
    "P13 doubled key": (HEAD, lambda model: weight_of(model).external_data.add(key="offset", value="0")),
    "P13 many keys": (HEAD, add_many_entries),
    "P13 two copies": (HEAD, lambda model: setattr(weight_of(model), "raw_data", b"1234")),
}


@pytest.mark.parametrize("row", RANGES)
def test_P10_P11_P12_P13_range_that_is_not_the_tensors_is_refused(
    row: str, bundle_copy: Bundle, tmp_path: Path
) -> None:
    names, change = RANGES[row]
    alter_graph(bundle_copy.path, change)
    refused_by_all(bundle_copy.path, tmp_path / "out", names)


def add_attribute(model: onnx.ModelProto, **fields: Any) -> None:
    attribute = model.graph.node[0].attribute.add(name="hidden")
    for name, value in fields.items():
        part = getattr(attribute, name)
        part.extend(value) if isinstance(value, list) else part.CopyFrom(value)


def add_function(model: onnx.ModelProto) -> None:
    node = onnx.helper.make_node("Constant", [], ["x"], value=external())
    model.functions.add(name="f", domain="local").node.append(node)


PLACES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "attribute": lambda model: add_attribute(model, t=external()),
    "attribute with several": lambda model: add_attribute(model, tensors=[external()]),
    "sparse attribute": lambda model: add_attribute(model, sparse_tensor=onnx.SparseTensorProto(values=external())),
    "sparse initializer": lambda model: model.graph.sparse_initializer.add(values=external()),
    "indices": lambda model: model.graph.sparse_initializer.add(indices=external()),
    "nested graph": lambda model: add_attribute(model, g=onnx.GraphProto(initializer=[external()])),
    "nested graphs": lambda model: add_attribute(model, graphs=[onnx.GraphProto(initializer=[external()])]),
    "function": add_function,
}


@pytest.mark.parametrize("place", PLACES)
def test_P14_external_data_anywhere_else_is_refused(place: str, bundle_copy: Bundle, tmp_path: Path) -> None:
    alter_graph(bundle_copy.path, PLACES[place])
    refused_by_all(bundle_copy.path, tmp_path / "out", "'elsewhere'")


def test_P16_nothing_is_written_for_a_hostile_location(bundle_copy: Bundle, tmp_path: Path) -> None:
    alter_graph(bundle_copy.path, set_location("../../stolen"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=HEAD):
        quantize_bundle(unchecked(bundle_copy.path), tmp_path / "out", QuantizeOptions(scheme="int8"))
    assert sorted(tmp_path.rglob("*")) == before


def test_P17_link_in_the_old_folder_is_not_written_through(
    bundle_copy: Bundle, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.move(bundle_copy.path / DATA, outside)
    (bundle_copy.path / DATA).symlink_to(outside)
    before = outside.read_bytes()
    quantize_bundle(tiny_bundle, bundle_copy.path, QuantizeOptions(scheme="int8", overwrite=True))
    assert outside.read_bytes() == before
    assert not (bundle_copy.path / DATA).is_symlink()


def test_model_behind_the_gate_is_the_one_that_was_exported(tiny_bundle: Bundle) -> None:
    model = read_model(tiny_bundle)
    data = (tiny_bundle.path / DATA).read_bytes()
    head = model.graph.initializers[HEAD].const_value
    assert head is not None
    assert head.tobytes() in data
    assert np.asarray(head).tobytes() == head.tobytes()
