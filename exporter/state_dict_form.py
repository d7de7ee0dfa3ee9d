"""The one form of pickle that is accepted: torch's state dict, a mapping of names to dense tensors.

torch's restricted unpickler runs no code, but it is no limit of time and memory: `bytearray(2**31)` is among what it
may call, and a key made of doubled tuples takes for ever to hash. So the pickle is first run here on stand-ins: every
operation, every global and every argument has to be one that a state dict has. Nothing that a stand-in does is larger
than what was read for it, so the check takes time in proportion to the pickle's size.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST_OPERATIONS = 2**18  # CodeGen-16B's state dict takes 15 thousand
_LONGEST_TEXT = 1024  # characters of a tensor's name, or of a storage's
_MOST_DIMENSIONS = 8
_LONGEST_TUPLE = 16
_DEEPEST_DICT = 4  # the state dict's `_metadata` has two levels

_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_ITEM_BYTES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}
_GLOBALS = {_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_ITEM_BYTES}
# Of tensors that are not dense, or of dtypes that no CodeGen has: harmless, but nothing that we read.
_OTHER_TENSOR = re.compile(
    r"torch(\._utils _rebuild_\w+|\.serialization _get_layout|\.storage UntypedStorage| \w+Storage| Size| device"
    r"| Tensor| u?int\d+| b?float\d\w*| complex\d+| bool)"
)


class NoStateDictError(ValueError):
    """A pickle of something else."""


class UnsafeGlobalError(ValueError):
    """A pickle that wants something which no state dict needs; its text names it."""


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    num_items: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    pass


@dataclass(slots=True, eq=False)
class _Dict:
    is_ordered: bool
    values: dict[str, Any] = field(default_factory=dict)
    depth: int = 1


_MARK = object()


def check_state_dict(content: bytes, storage_bytes: Mapping[str, int]) -> None:
    """Check that a pickle does nothing but make a state dict.

    Args:
        content: the pickle, of a size that the caller has bounded.
        storage_bytes: size of each storage by its key, as it is in the archive.

    Raises:
        UnsafeGlobalError: it wants a class or function that no state dict has.
        NoStateDictError: it is malformed, or makes something else.
    """
    machine = _Machine(storage_bytes)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if number >= _MOST_OPERATIONS:
                raise NoStateDictError(f"it has more than {_MOST_OPERATIONS:,} operations")
            machine.do(opcode.name, argument)
    except (NoStateDictError, UnsafeGlobalError):
        raise
    except (ValueError, IndexError, KeyError) as exc:
        raise NoStateDictError(f"its pickle is malformed: {exc}") from exc
    result = machine.stack[-1] if machine.stack else None
    if not isinstance(result, _Dict) or not all(isinstance(value, _Tensor) for value in result.values.values()):
        raise NoStateDictError("it holds something else")


class _Machine:
    """Runs the operations of a pickle on stand-ins."""

    def __init__(self, storage_bytes: Mapping[str, int]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storage_bytes = storage_bytes

    def do(self, name: str, argument: Any) -> None:
        """One operation; those that are not here, torch's unpickler does not know or no state dict has."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NUMBERS:
            self.stack.append(argument)
        elif name.endswith("TUPLE") or name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            self._tuple(name)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in {"PROTO", "STOP"}:
            raise NoStateDictError(f"it has the operation {name}")

    def _text(self, text: str) -> None:
        if len(text) > _LONGEST_TEXT:
            raise NoStateDictError(f"it holds a text of {len(text)} characters")
        self.stack.append(text)

    def _put(self, number: int) -> None:
        self._memo[number] = self.stack[-1]

    def _get(self, number: int) -> None:
        self.stack.append(self._memo[number])

    def _find(self, name: str) -> None:
        self.stack.append(_global(name))

    def _new_dict(self, _: None) -> None:
        self.stack.append(_Dict(is_ordered=False))

    def _set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self, _: None) -> None:
        self._set(self._to_mark())

    def _load_storage(self, _: None) -> None:
        self.stack.append(self._storage(self.stack.pop()))

    def _call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(function, arguments))

    def _set_state(self, _: None) -> None:
        _build(self.stack.pop(), self.stack[-1])

    def _to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise NoStateDictError("its pickle is malformed: a mark is missing")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _tuple(self, name: str) -> None:
        if name == "TUPLE":
            items = self._to_mark()
        else:
            size = 0 if name == "EMPTY_TUPLE" else int(name[-1])
            if size > len(self.stack):
                raise NoStateDictError("its pickle is malformed: a tuple of more than there is")
            items = [self.stack.pop() for _ in range(size)][::-1]
        # Tuples of tuples of plain values, no deeper: doubled ones grow without end.
        is_deep = any(isinstance(item, tuple) and any(isinstance(inner, tuple) for inner in item) for item in items)
        if len(items) > _LONGEST_TUPLE or is_deep or _MARK in items:
            raise NoStateDictError("it holds a tuple that no tensor has")
        self.stack.append(tuple(items))

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, _Dict) or len(items) % 2:
            raise NoStateDictError("its pickle is malformed: items of no mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise NoStateDictError(f"a key is {type(key).__name__.strip('_').lower()}, no text")
            if isinstance(value, _Dict):
                target.depth = max(target.depth, value.depth + 1)
                if target.depth > _DEEPEST_DICT or value is target:
                    raise NoStateDictError("its mappings are nested too deeply")
            target.values[key] = value

    def _storage(self, parts: Any) -> _Storage:
        """What ("storage", class, key, device, number of items) stands for."""
        if not isinstance(parts, tuple) or len(parts) != 5:
            raise NoStateDictError("its pickle is malformed: a storage has other parts")
        kind, storage_class, key, device, num_items = parts
        item_bytes = _ITEM_BYTES.get(storage_class.name) if isinstance(storage_class, _Global) else None
        is_sound = kind == "storage" and type(key) is type(device) is str and type(num_items) is int
        if not is_sound or item_bytes is None or device == "meta":
            raise NoStateDictError("its pickle is malformed: a storage has other parts")
        if not 0 <= num_items * item_bytes <= self._storage_bytes.get(key, -1):
            raise NoStateDictError(f"its storage {key!a} is missing or shorter than {num_items} items")
        return _Storage(num_items)


_CONSTANTS: dict[str, Any] = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINUNICODE": _Machine._text,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "GLOBAL": _Machine._find,
    "EMPTY_DICT": _Machine._new_dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "BINPERSID": _Machine._load_storage,
    "REDUCE": _Machine._call,
    "BUILD": _Machine._set_state,
}


def _global(name: str) -> _Global:
    if name in _GLOBALS:
        return _Global(name)
    shown = ascii(name.replace(" ", ".")[:_LONGEST_TEXT])[1:-1]
    if _OTHER_TENSOR.fullmatch(name):
        raise NoStateDictError(f"it wants {shown}")
    raise UnsafeGlobalError(shown)


def _called(function: Any, arguments: Any) -> _Dict | _Tensor:
    name = function.name if isinstance(function, _Global) else ""
    if name == _ORDERED_DICT and arguments == ():
        return _Dict(is_ordered=True)
    if not isinstance(arguments, tuple):
        raise NoStateDictError("its pickle is malformed: a call without arguments")
    kinds = [type(argument) for argument in arguments]
    if name == _REBUILD_PARAMETER and kinds == [_Tensor, bool, _Dict]:
        return _Tensor()
    if name == _REBUILD_TENSOR and kinds == [_Storage, int, tuple, tuple, bool, _Dict]:
        storage, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise NoStateDictError("a tensor's shape holds something else than counts")
        if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
            raise NoStateDictError("a tensor's shape and strides do not fit")
        if offset + math.prod(shape) > storage.num_items:
            raise NoStateDictError(f"a tensor of shape {list(shape)} is larger than its storage")
        return _Tensor()
    raise NoStateDictError(f"it calls {name or 'what is no function'} with other arguments")


def _build(state: Any, target: Any) -> None:
    """An OrderedDict's attributes: modules keep versions of theirs in `_metadata`."""
    if not isinstance(target, _Dict) or not target.is_ordered or not isinstance(state, _Dict):
        raise NoStateDictError("it sets the state of something else")
    if set(state.values) != {"_metadata"}:
        raise NoStateDictError("its mapping has other attributes than _metadata")
