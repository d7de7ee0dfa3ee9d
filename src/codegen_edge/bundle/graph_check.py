"""The gate of a graph: what it says of its tensors is checked before a library reads the file or opens another one.

No library is needed for it, so that every command has the same gate: whoever opens a bundle looks at the graph here.
External data lies in the one data file that the manifest vouches for, and nowhere else: a location with a path, a NUL,
an escape or anything else in it is another name. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath

from codegen_edge.bundle import contract
from codegen_edge.bundle.manifest import Manifest
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.bundle.wire import BYTES, VARINT, Texts, Wire, WireError, signed
from codegen_edge.errors import BundleError

MOST_GRAPH_BYTES = 64 * 1024 * 1024  # weights lie in the data file; CodeGen's largest graph has a quarter of a megabyte

_MOST_NESTED_GRAPHS = 16
_MOST_AXES = 8
_MOST_ENTRIES = 4  # location, offset, length, checksum
_NEWEST_IR, _NEWEST_OPSET = 14, 28  # of onnx 1.23
_LOCATION = PurePosixPath(contract.WEIGHTS_FILE).name
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8}  # of TensorProto.DataType
_STRING = 8
# Fields of a message that hold text (None) or messages with text: ValueInfoProto, its type, shape and dimensions.
_TEXTS_OF_A_VALUE: Texts = {1: None, 2: {1: {2: {1: {2: None, 3: None}}}, 6: None}, 3: None}
_TYPED = (4, 5, 6, 7, 10, 11)  # fields of TensorProto that hold values one by one
_ROTARY_INPUTS = (7, 8)  # cos_cache and sin_cache of GroupQueryAttention (onnxruntime, docs/ContribOperators.md)
_ROTARY_NAMES = ("rotary_cos", "rotary_sin")


@dataclass(slots=True)
class _Tensor:
    """What a TensorProto says of itself."""

    name: str = ""
    shape: list[int] = field(default_factory=list)
    dtype: int = 0
    is_external: bool = False
    entries: list[tuple[str, str]] = field(default_factory=list)
    raw_bytes: int | None = None
    typed_bytes: int = 0
    num_strings: int = 0


@dataclass(slots=True)
class _Found:
    """What was found so far: initializers of the main graph, where their bytes lie, and the rotary tables."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ranges: list[tuple[int, int, str]] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)


def check_graph(content: bytes, data_bytes: int, path: Path, manifest: Manifest) -> None:
    """Check a graph before it is read.

    Args:
        content: of the graph's file.
        data_bytes: size of its data file.
        path: of the graph, for messages.
        manifest: what it must be: its inputs and outputs are looked for, and context_length and rotary_dim are compared
            with the rotary tables.

    Raises:
        BundleError: the file is corrupt, a tensor lies where none may lie or is not what its shape says, or the graph
            is another model's; the tensor is named.
    """
    found = _Found()
    try:
        _Gate(Wire(content), found, data_bytes).check_model()
        _check_overlap(found)
        _check_values(found, manifest)
        _check_rotary(found, manifest.model)
    except (WireError, RecursionError) as exc:
        raise BundleError(f"{path} is no graph that can be read: {exc}{_what_it_is(content)}") from exc
    except BundleError as exc:
        raise BundleError(f"{path} is refused: {exc}") from exc


class _Gate:
    """Walks a ModelProto."""

    def __init__(self, wire: Wire, found: _Found, data_bytes: int) -> None:
        self._wire = wire
        self._found = found
        self._data_bytes = data_bytes

    def check_model(self) -> None:
        num_graphs = 0
        for number, kind, start, stop in self._wire.fields(0, len(self._wire.content)):
            if number == 1 and kind == VARINT and start > _NEWEST_IR:
                raise BundleError(f"it has IR version {signed(start)}; up to {_NEWEST_IR} can be read")
            if number == 7 and kind == BYTES:
                num_graphs += 1
                self._graph(start, stop, depth=0)
            elif number == 8 and kind == BYTES:
                self._opset(start, stop)
            elif number == 25 and kind == BYTES:
                self._function(start, stop)
        if num_graphs != 1:
            raise WireError("it holds no graph" if not num_graphs else "it holds two graphs")

    def _opset(self, start: int, stop: int) -> None:
        domain, version = "", 0
        for number, kind, first, last in self._wire.fields(start, stop):
            if number == 1 and kind == BYTES:
                domain = self._wire.text(first, last)
            elif number == 2 and kind == VARINT:
                version = signed(first)
        if domain in ("", "ai.onnx") and not 1 <= version <= _NEWEST_OPSET:
            raise BundleError(f"it has opset {version}; up to {_NEWEST_OPSET} can be read")

    def _function(self, start: int, stop: int) -> None:
        for number, kind, first, last in self._wire.fields(start, stop):
            if number == 7 and kind == BYTES:
                self._node(first, last, depth=1)
            elif number == 11 and kind == BYTES:
                self._attribute(first, last, depth=1)

    def _graph(self, start: int, stop: int, depth: int) -> None:
        if depth > _MOST_NESTED_GRAPHS:
            raise WireError(f"graphs are nested more than {_MOST_NESTED_GRAPHS} times")
        for number, kind, first, last in self._wire.fields(start, stop):
            if kind != BYTES:
                continue
            if number == 1:
                self._node(first, last, depth)
            elif number == 5:
                self._initializer(self._tensor(first, last), depth)
            elif number in (11, 12, 13):
                name = self._name(first, last)
                self._wire.check_texts(first, last, _TEXTS_OF_A_VALUE)
                if depth == 0 and number != 13:
                    self._found.values.add(name)
            elif number == 15:
                self._sparse(first, last)

    def _node(self, start: int, stop: int, depth: int) -> None:
        inputs: list[str] = []
        operator = ""
        for number, kind, first, last in self._wire.fields(start, stop):
            if kind != BYTES:
                continue
            if number == 5:
                self._attribute(first, last, depth)
            elif number <= 4:
                text = self._wire.text(first, last)
                if number == 1:
                    inputs.append(text)
                elif number == 4:
                    operator = text
        if operator == "GroupQueryAttention" and depth == 0:
            self._found.tables |= {inputs[place] for place in _ROTARY_INPUTS if place < len(inputs)} - {""}

    def _attribute(self, start: int, stop: int, depth: int) -> None:
        single = set()
        for number, kind, first, last in self._wire.fields(start, stop):
            if kind != BYTES or number not in (5, 6, 10, 11, 22, 23):
                continue
            if number in single:
                raise WireError("an attribute has two values")
            if number in (5, 6, 22):
                single.add(number)
            if number in (5, 10):
                _check_inline(self._tensor(first, last), "an attribute's tensor")
            elif number in (6, 11):
                self._graph(first, last, depth + 1)
            else:
                self._sparse(first, last)

    def _sparse(self, start: int, stop: int) -> None:
        for number, kind, first, last in self._wire.fields(start, stop):
            if number in (1, 2) and kind == BYTES:
                _check_inline(self._tensor(first, last), "a sparse tensor")

    def _name(self, start: int, stop: int) -> str:
        name = ""
        for number, kind, first, last in self._wire.fields(start, stop):
            if number == 1 and kind == BYTES:
                name = self._wire.text(first, last)
        return name

    def _tensor(self, start: int, stop: int) -> _Tensor:
        wire, tensor = self._wire, _Tensor()
        for number, kind, first, last in wire.fields(start, stop):
            if number == 1:
                dims = [first] if kind == VARINT else wire.varints(first, last)
                for dim in dims:
                    if len(tensor.shape) <= _MOST_AXES:
                        tensor.shape.append(signed(dim))
            elif number == 2 and kind == VARINT:
                tensor.dtype = first
            elif number == 8 and kind == BYTES:
                tensor.name = wire.text(first, last)
            elif number == 9 and kind == BYTES:
                tensor.raw_bytes = last - first
            elif number == 13 and kind == BYTES:
                tensor.is_external = True
                tensor.entries.append(self._entry(first, last))
                if len(tensor.entries) > _MOST_ENTRIES:
                    raise BundleError(f"{_shown(tensor.name)} has more than {_MOST_ENTRIES} entries of external data")
            elif number == 14 and kind == VARINT:
                tensor.is_external = tensor.is_external or first == 1
            elif number == 6 and kind == BYTES:  # string_data
                tensor.num_strings += 1
            elif number in _TYPED:
                tensor.typed_bytes += 8 if kind == VARINT else last - first
        return tensor

    def _entry(self, start: int, stop: int) -> tuple[str, str]:
        key = value = ""
        for number, kind, first, last in self._wire.fields(start, stop):
            if kind == BYTES and number == 1:
                key = self._wire.text(first, last)
            elif kind == BYTES and number == 2:
                value = self._wire.text(first, last)
        return key, value

    def _initializer(self, tensor: _Tensor, depth: int) -> None:
        if depth or not tensor.is_external:
            _check_inline(tensor, "a nested graph")
        else:
            offset, length = _check_external(tensor, self._data_bytes)
            if length:
                self._found.ranges.append((offset, length, tensor.name))
        if depth == 0:
            if tensor.name in self._found.shapes:
                raise BundleError(f"{_shown(tensor.name)} stands in the graph twice")
            self._found.shapes[tensor.name] = tuple(tensor.shape)


def _check_inline(tensor: _Tensor, where: str) -> None:
    """Raise BundleError unless a tensor within the graph's file is as large as its shape says."""
    name = _shown(tensor.name)
    if tensor.is_external:
        raise BundleError(f"{name}, {where}, lies in another file; only the graph's own weights may")
    count = _count(tensor)
    if tensor.raw_bytes is not None:
        if tensor.raw_bytes != _size(tensor, count):
            raise BundleError(f"{name} has {tensor.raw_bytes} bytes, its shape {tensor.shape} has {count} values")
    elif tensor.dtype == _STRING:
        if tensor.num_strings != count:
            raise BundleError(f"{name} has {tensor.num_strings} texts, its shape {tensor.shape} has {count} values")
    elif count > 2 * tensor.typed_bytes:  # a value takes half a byte at least
        raise BundleError(f"{name} has {tensor.typed_bytes} bytes, its shape {tensor.shape} has {count} values")


def _check_external(tensor: _Tensor, data_bytes: int) -> tuple[int, int]:
    """Offset and length in the data file; raise BundleError unless they are what shape and file allow."""
    name = _shown(tensor.name)
    entries = dict(tensor.entries)
    if len(entries) != len(tensor.entries) or not entries.keys() <= {"location", "offset", "length", "checksum"}:
        raise BundleError(f"{name} has external data with unknown or doubled entries")
    location = entries.get("location", "")
    if location != _LOCATION:
        raise BundleError(f"{name} lies in {_shown(location)}; weights lie in {_LOCATION} beside the graph only")
    if tensor.raw_bytes is not None or tensor.typed_bytes:
        raise BundleError(f"{name} lies in {_LOCATION} and in the graph as well")
    offset, length = _number(name, "offset", entries.get("offset", "0")), _number(name, "length", entries.get("length"))
    wanted = _size(tensor, _count(tensor))
    if length != wanted:
        raise BundleError(f"{name} has {length} bytes in {_LOCATION}, its shape {tensor.shape} takes {wanted}")
    if offset + length > data_bytes:
        raise BundleError(f"{name} ends at byte {offset + length} of {_LOCATION}, which has {data_bytes}")
    return offset, length


def _number(name: str, key: str, text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise BundleError(f"{name} has {key} {_shown(text or '')}, which is no number of bytes")
    return int(text)


def _count(tensor: _Tensor) -> int:
    count = 1
    for dim in tensor.shape:
        if dim < 0 or len(tensor.shape) > _MOST_AXES:
            raise BundleError(f"{_shown(tensor.name)} has shape {tensor.shape}")
        count *= dim
    return count


def _size(tensor: _Tensor, count: int) -> int:
    bits = _BITS.get(tensor.dtype)
    if bits is None:
        raise BundleError(f"{_shown(tensor.name)} has data type {tensor.dtype}, which is not known")
    return -(-count * bits // 8)


def _check_overlap(found: _Found) -> None:
    end, owner = 0, ""
    for offset, length, name in sorted(found.ranges):
        if offset < end:
            raise BundleError(f"{_shown(name)} and {_shown(owner)} share bytes of {_LOCATION}")
        end, owner = offset + length, name


def _check_values(found: _Found, manifest: Manifest) -> None:
    """Raise BundleError unless the graph has the inputs and outputs of its task, target and number of layers."""
    wanted = [contract.INPUT_IDS, contract.PAST_LENGTH if manifest.target == "tensorrt" else contract.ATTENTION_MASK]
    if manifest.task == "feature-extraction":
        wanted.append(contract.LAST_HIDDEN_STATE)
    else:
        wanted.append(contract.LOGITS)
        for layer, part in product(range(manifest.model.num_layers), contract.KV_PARTS):
            wanted += [contract.past_name(layer, part), contract.present_name(layer, part)]
    missing = next((name for name in wanted if name not in found.values), None)
    if missing is not None:
        raise BundleError(f"it is not the graph of {manifest.model}: it has no {missing}")


def _check_rotary(found: _Found, model: ModelConfig) -> None:
    """Compare context_length and rotary_dim with the rotary tables, [context_length, rotary_dim / 2]."""
    wanted = (model.context_length, model.rotary_dim // 2)
    for name in sorted(found.tables | set(_ROTARY_NAMES)):
        shape = found.shapes.get(name, wanted)
        if shape != wanted:
            raise BundleError(
                f"{_shown(name)} has shape {list(shape)}; bundle.json says context_length {model.context_length} and "
                f"rotary_dim {model.rotary_dim}, which are {list(wanted)}"
            )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "…")


def _what_it_is(content: bytes) -> str:
    """A guess at a file that was saved as a graph and is none."""
    start = content[:64].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return " (it is a pointer of git-lfs: run git lfs pull)"
    return " (it is a web page)" if start.startswith((b"<!doctype", b"<html")) else ""
