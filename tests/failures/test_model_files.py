"""Rows F01–F17: what lies in the place of a graph, whoever reads it. Hashes vouch for all of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from codegen_edge import load_model, open_bundle, verify
from codegen_edge.bundle import Bundle, contract, file_check, opened
from codegen_edge.bundle.graph_file import read_model
from codegen_edge.bundle.storage import staged_folder
from codegen_edge.cli import cli
from codegen_edge.errors import BundleError, CodegenEdgeError, IntegrityError, InvalidInputError
from codegen_edge.quantization.calibration import Calibration
from tests.failures.altering import alter_graph, vouch, weight_of, write_graph_bytes

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1000\n"
HTML = b"<!DOCTYPE html><html><body>404</body></html>"
MUTANTS = 250


def refused(folder: Path, words: str) -> None:
    """Whoever opens the folder, and onnx-ir where nobody looked at it, gets one line of ours."""
    with pytest.raises(BundleError) as by_all:
        open_bundle(folder)
    with pytest.raises(BundleError):
        read_model(Bundle(folder, _manifest(folder)))
    message = str(by_all.value)
    assert words in message, message
    assert "\n" not in message
    assert len(message) < 600


def _manifest(folder: Path) -> Any:
    from codegen_edge.bundle import Manifest
    from codegen_edge.bundle.model_config import read_json_object

    return Manifest.from_dict(read_json_object(folder / "bundle.json", BundleError))


@pytest.mark.parametrize(
    ("row", "content", "words"),
    [
        ("F01", b"", "it holds no graph"),
        ("F04", LFS_POINTER, "run git lfs pull"),
        ("F05", HTML, "it is a web page"),
        ("F02", b"\x00" * 100, "a field has number 0"),
        ("F02", b"\xff" * 100, "a number has no end"),
        ("F02", b"\x3a\xff\xff\xff\xff\x0f", "goes beyond its message"),
        ("F02", b"\x3b\x3c", "wire type 3"),
        ("F02", b"\x3a\x00\x3a\x00", "two graphs"),
    ],
)
def test_F01_F02_F04_F05_what_is_no_graph_is_refused(row: str, content: bytes, words: str, bundle_copy: Bundle) -> None:
    write_graph_bytes(bundle_copy.path, content)
    refused(bundle_copy.path, words)


@pytest.mark.parametrize("seed", range(20))
def test_F02_random_bytes_are_refused(seed: int, bundle_copy: Bundle) -> None:
    write_graph_bytes(bundle_copy.path, random.Random(seed).randbytes(2000))
    refused(bundle_copy.path, "is no graph that can be read")


@pytest.mark.parametrize("name", [b"batch_size", b"input_ids", b"past_key_values.1.key"])
def test_F02_name_that_is_no_text_is_refused(name: bytes, bundle_copy: Bundle) -> None:
    content = bundle_copy.model_path.read_bytes()
    assert name in content
    write_graph_bytes(bundle_copy.path, content.replace(name, b"\xdb" + name[1:]))
    refused(bundle_copy.path, "is no graph that can be read")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99, 1.0])
def test_F03_truncated_graph_is_refused(share: float, bundle_copy: Bundle) -> None:
    content = bundle_copy.model_path.read_bytes()
    write_graph_bytes(bundle_copy.path, content[: int(share * (len(content) - 1))])
    refused(bundle_copy.path, "model.onnx")


@pytest.mark.parametrize("name", ["bundle.json", contract.MODEL_FILE, contract.WEIGHTS_FILE, "README.md"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_F06_what_is_no_file_is_refused_at_once(kind: str, name: str, bundle_copy: Bundle) -> None:
    path = bundle_copy.path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=path.name):
        open_bundle(bundle_copy.path)


def test_F06_pipe_in_the_place_of_a_targets_manifest_does_not_block(bundle_copy: Bundle) -> None:
    (bundle_copy.path / "bundle.json").unlink()
    os.mkfifo(bundle_copy.path / "bundle.json")
    with (
        pytest.raises(InvalidInputError, match="is no bundle; it will not be replaced"),
        staged_folder(bundle_copy.path, overwrite=True),
    ):
        pytest.fail("must refuse before any work")


def test_F07_file_that_cannot_be_read_is_named(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_check, "open_regular", forbidden)
    with pytest.raises(IntegrityError, match="README.md cannot be read: Permission denied"):
        open_bundle(bundle_copy.path)


def test_F07_folder_that_cannot_be_read_is_named(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opened, "HeldFolder", forbidden)
    with pytest.raises(BundleError, match="bundle cannot be read: Permission denied"):
        open_bundle(bundle_copy.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: setattr(model, "ir_version", 99), "IR version 99"),
        (lambda model: setattr(model.opset_import[0], "version", 999), "opset 999"),
        (lambda model: setattr(model.opset_import[0], "version", -1), "opset -1"),
    ],
)
def test_F08_graph_of_the_future_is_refused(change: Any, words: str, bundle_copy: Bundle) -> None:
    alter_graph(bundle_copy.path, change)
    refused(bundle_copy.path, words)


def test_F09_graph_of_another_kind_is_refused(bundle_copy: Bundle) -> None:
    value = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3])
    other = helper.make_tensor_value_info("label", onnx.TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["label"])], "classifier", [value], [other])
    write_graph_bytes(bundle_copy.path, helper.make_model(graph, ir_version=10).SerializeToString())
    refused(bundle_copy.path, "it has no input_ids")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("context_length", 4096, "context_length 4096"),
        ("context_length", 64, "context_length 64"),
        ("rotary_dim", 8, "rotary_dim 8"),
        ("num_layers", 3, "it has no past_key_values.2.key"),
    ],
)
def test_F10_manifest_of_another_model_is_refused(field: str, value: int, words: str, bundle_copy: Bundle) -> None:
    vouch(bundle_copy.path, lambda fields: fields["model"].update({field: value}))
    refused(bundle_copy.path, words)


def nested(depth: int) -> bytes:
    """A graph in an attribute of a graph in an attribute of …, by its bytes: no library writes that many."""

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("depth", [17, 100, 2000])
def test_F11_graphs_nested_without_end_are_refused(depth: int, bundle_copy: Bundle) -> None:
    write_graph_bytes(bundle_copy.path, nested(depth))
    refused(bundle_copy.path, "nested more than 16 times")


def test_F11_many_empty_fields_end_soon(bundle_copy: Bundle) -> None:
    write_graph_bytes(bundle_copy.path, b"\x3a" + varint(2_000_000) + b"\x12\x00" * 1_000_000)
    refused(bundle_copy.path, "more than 200000 fields")


def test_F11_function_that_calls_itself_is_no_traceback(bundle_copy: Bundle) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.add(domain="local", version=1)
        call = helper.make_node("f", ["x"], ["y"], domain="local")
        model.functions.append(helper.make_function("local", "f", ["x"], ["y"], [call], []))
        model.graph.node.insert(0, helper.make_node("f", ["input_ids"], ["unused"], domain="local"))

    alter_graph(bundle_copy.path, change)
    with pytest.raises(BundleError):
        load_model(bundle_copy.path)


def set_dims(name: str, *dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = weight_of(model, name)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def add_tensor(**fields: Any) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.initializer.append(onnx.TensorProto(name="added", **fields))


DIMS: dict[str, tuple[str, Callable[[onnx.ModelProto], object]]] = {
    "F12 dim 2^62": ("lm_head.weight", set_dims("lm_head.weight", 2**62)),
    "F12 product beyond 2^64": ("lm_head.weight", set_dims("lm_head.weight", 2**31, 2**31, 2**31)),
    "F12 product that wraps to the size": ("lm_head.weight", set_dims("lm_head.weight", 2**32, 2**32, 64, 640)),
    "F12 negative dim": ("lm_head.weight", set_dims("lm_head.weight", -64, -640)),
    "F12 many axes": ("lm_head.weight", set_dims("lm_head.weight", *[1] * 100_000)),
    "F12 raw data too short": ("added", add_tensor(data_type=1, dims=[4], raw_data=b"12")),
    "F12 raw data too long": ("added", add_tensor(data_type=1, dims=[1], raw_data=b"12345678")),
    "F12 no data": ("added", add_tensor(data_type=1, dims=[2**62])),
    "F12 typed data too short": ("added", add_tensor(data_type=1, dims=[2**40], float_data=[1.0])),
    "F12 texts missing": ("added", add_tensor(data_type=8, dims=[3], string_data=[b"a"])),
    "F13 packed int4 too short": ("added", add_tensor(data_type=22, dims=[9], raw_data=b"1234")),
    "F13 packed int4 too long": ("added", add_tensor(data_type=22, dims=[9], raw_data=b"123456")),
    "F12 the same name twice": ("added", lambda model: [add_tensor(data_type=1, dims=[0])(model) for _ in range(2)]),
}


@pytest.mark.parametrize("row", DIMS)
def test_F12_F13_tensor_that_is_not_as_large_as_its_shape_is_refused(row: str, bundle_copy: Bundle) -> None:
    name, change = DIMS[row]
    alter_graph(bundle_copy.path, change)
    refused(bundle_copy.path, name)


def test_F12_value_of_another_shape_than_its_tensor_is_refused(bundle_copy: Bundle) -> None:
    def widen(model: onnx.ModelProto) -> None:
        for value in model.graph.value_info:
            if value.name == "lm_head.weight":
                value.type.tensor_type.shape.dim[1].dim_value += 1
                return
        raise AssertionError("the graph says no shapes of its weights")

    alter_graph(bundle_copy.path, widen)
    with pytest.raises(BundleError, match=r"lm_head\.weight is \[64,640\] as a tensor, \[64,641\] as a value"):
        read_model(open_bundle(bundle_copy.path))


def test_F12_F13_tensor_in_an_attribute_is_looked_at(bundle_copy: Bundle) -> None:
    value = onnx.TensorProto(name="inner", data_type=1, dims=[2**62], raw_data=b"1234")
    alter_graph(
        bundle_copy.path,
        lambda model: model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value)),
    )
    refused(bundle_copy.path, "inner")


def test_F14_no_weight_with_an_axis_lies_in_the_graph(tiny_bundle: Bundle) -> None:
    graph = onnx.load(str(tiny_bundle.model_path), load_external_data=False).graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims]
    assert floats
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in floats)


@pytest.mark.parametrize("place", [100, -100])
def test_F15_flipped_bit_that_still_parses_is_refused(place: int, bundle_copy: Bundle) -> None:
    content = bytearray(bundle_copy.model_path.read_bytes())
    content[place] ^= 0x20
    bundle_copy.model_path.write_bytes(content)
    with pytest.raises(IntegrityError, match="altered"):
        open_bundle(bundle_copy.path)


def test_F16_like_named_file_in_the_working_folder_is_not_taken(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [np.arange(1, 33, dtype=np.int64)]
    expected = Calibration(tiny_bundle, documents).second_moment("lm_head.weight")
    size_bytes = (tiny_bundle.path / contract.WEIGHTS_FILE).stat().st_size
    (tmp_path / "model.onnx_data").write_bytes(bytes(size_bytes))
    monkeypatch.chdir(tmp_path)
    found = Calibration(tiny_bundle, documents).second_moment("lm_head.weight")
    assert expected is not None
    assert found is not None
    assert np.array_equal(found, expected)


def test_F17_mutated_graphs_are_read_or_refused_in_one_line(bundle_copy: Bundle) -> None:
    """Bytes that are flipped, dropped, doubled or set, in a bundle that vouches for them."""
    rng = random.Random(17)
    original = bundle_copy.model_path.read_bytes()
    unchecked = Bundle(bundle_copy.path, bundle_copy.manifest)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(MUTANTS):
        content = bytearray(original)
        for _ in range(rng.choice((1, 2, 8))):
            place = rng.randrange(len(content))
            way = rng.randrange(4)
            if way == 0:
                content[place] ^= 1 << rng.randrange(8)
            elif way == 1:
                del content[place : place + rng.randrange(1, 16)]
            elif way == 2:
                content[place:place] = content[place : place + rng.randrange(1, 64)]
            else:
                content[place] = rng.choice((0, 0x7F, 0x80, 0xFF))
        bundle_copy.model_path.write_bytes(content)
        try:
            read_model(unchecked)
        except CodegenEdgeError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 0


@pytest.mark.parametrize("command", ["inspect", "generate", "quantize", "build", "verify"])
def test_F12_every_command_refuses_in_one_line(
    command: str, bundle_copy: Bundle, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    alter_graph(bundle_copy.path, set_dims("lm_head.weight", 2**62))
    folder, out = str(bundle_copy.path), str(tmp_path / "out")
    arguments = {
        "inspect": [folder],
        "generate": [folder, "--prompt", "a"],
        "quantize": [folder, out, "--scheme", "int8"],
        "build": [folder, out, "--runtime", "cuda"],
        "verify": [folder, "--reference", str(tiny_checkpoint)],
    }[command]
    result = CliRunner().invoke(cli, [command, *arguments])
    assert isinstance(result.exception, BundleError), result.exception
    assert "lm_head.weight" in str(result.exception)
    assert not Path(out).exists()
    with pytest.raises(BundleError, match=r"lm_head\.weight"):
        verify(folder, tiny_checkpoint)
