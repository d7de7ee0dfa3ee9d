"""Reading a checkpoint's weights one tensor at a time, so that no more than one is ever in memory.

Each read opens the file, maps it, takes one tensor and lets go of the mapping with the tensor: pages of other
tensors never stay resident.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from packaging.version import Version
from safetensors import SafetensorError, safe_open

from codegen_edge.errors import CheckpointError, IncompatibleVersionError, UnsafeCheckpointError
from codegen_edge.exporter.json_files import read_strict_object
from codegen_edge.exporter.state_dict_form import NoStateDictError, UnsafeGlobalError, check_state_dict
from codegen_edge.exporter.torch_archive import read_archive

# In order of preference: safetensors cannot carry code.
_LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
_SOUND_TORCH = Version("2.10")  # the first whose restricted unpickler has no known hole
_LONGEST_NAME = 255  # bytes, of a file on Linux
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor in a weight file, not read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """All tensors of a checkpoint by name, and the files that hold them."""

    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]

    def read(self, name: str) -> torch.Tensor:
        """Map one tensor; its memory is free again when the tensor is."""
        file = self.tensors[name].file
        if file.suffix == ".safetensors":
            with _safetensors_errors(file), safe_open(file, framework="pt") as handle:
                return cast(torch.Tensor, handle.get_tensor(name))
        return _load_bin(file)[name].detach()


def open_weights(folder: Path) -> WeightFiles:
    """List the tensors of a checkpoint folder.

    Args:
        folder: holds model.safetensors or pytorch_model.bin, whole or in shards with an index.

    Raises:
        CheckpointError: no weight file, a missing shard, a malformed file.
        UnsafeCheckpointError: a pickle that would run code, or an index that points outside the folder.
        IncompatibleVersionError: a pickle, and torch is too old to read one safely.
    """
    for whole, index in _LAYOUTS:
        # A whole file goes before an index that may be stale, as in transformers.
        if (folder / whole).is_file():
            files: tuple[Path, ...] = (folder / whole,)
        elif (folder / index).is_file():
            files = _shards(folder, index)
        else:
            continue
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in _list_tensors(file).items():
                if name in tensors:
                    raise CheckpointError(f"{name} is stored twice: in {tensors[name].file} and in {file}")
                tensors[name] = tensor
        return WeightFiles(tensors=tensors, files=files)
    names = ", ".join(name for layout in _LAYOUTS for name in layout)
    raise CheckpointError(f"{folder} has no weights: none of {names} is there")


def _shards(folder: Path, index: str) -> tuple[Path, ...]:
    weight_map = read_strict_object(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or name in {".", ".."}:
            raise UnsafeCheckpointError(f"{folder / index} names a shard outside its folder: {_shown(name)}")
        if len(os.fsencode(name)) > _LONGEST_NAME or not name.isprintable():
            raise CheckpointError(f"{folder / index} names a shard that no file system can hold: {_shown(name)}")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; {index} names it")
    return tuple(folder / name for name in names)


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def _list_tensors(file: Path) -> dict[str, StoredTensor]:
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(f"{file} is a git-lfs pointer, not the weights; run: git lfs pull")
    if file.suffix == ".safetensors":
        return _list_safetensors(file)
    return {
        name: StoredTensor(file=file, shape=tuple(tensor.shape), dtype=tensor.dtype)
        for name, tensor in _load_bin(file).items()
    }


def _list_safetensors(file: Path) -> dict[str, StoredTensor]:
    tensors = {}
    with _safetensors_errors(file), safe_open(file, framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
            view = handle.get_slice(name)
            dtype = _SAFETENSORS_DTYPES.get(view.get_dtype())
            if dtype is None:
                raise CheckpointError(f"{file}: {name} has dtype {view.get_dtype()}, which no CodeGen uses")
            tensors[name] = StoredTensor(file=file, shape=tuple(view.get_shape()), dtype=dtype)
    return tensors


@contextmanager
def _safetensors_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{file} is no safetensors file: {' '.join(str(exc).split())}") from exc


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    """Map a torch pickle with the restricted unpickler; never tried again without it."""
    _require_sound_torch(file)
    try:
        status = file.stat()
        _check_bin(file, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (UnsafeGlobalError, pickle.UnpicklingError) as exc:
        # Not torch's own words: they advise to load it without restriction.
        named = f" (it wants {exc})" if isinstance(exc, UnsafeGlobalError) else ""
        raise UnsafeCheckpointError(
            f"{file} holds more than tensors{named} and was not loaded; convert it to safetensors where you trust it"
        ) from exc
    except NoStateDictError as exc:
        raise CheckpointError(f"{file} is no state dict, which maps names to dense tensors: {exc}") from exc
    # torch.load raises many kinds on malformed archives (RuntimeError, EOFError, ValueError, KeyError, …).
    except Exception as exc:
        reason = str(exc).partition("\n")[0]
        raise CheckpointError(
            f"{file} cannot be mapped as a torch checkpoint ({reason}); files older than torch 1.6 must be "
            "saved anew first"
        ) from exc
    if not isinstance(tensors, dict) or not all(_is_entry(name, tensor) for name, tensor in tensors.items()):
        raise CheckpointError(f"{file} is no state dict: it must map names to dense tensors")
    return tensors


@lru_cache(maxsize=64)  # a file is opened anew for each of its tensors
def _check_bin(file: Path, identity: tuple[int, ...]) -> None:
    """Check a .bin before torch sees it; `identity` changes with the file."""
    check_state_dict(*read_archive(file))


def _require_sound_torch(file: Path) -> None:
    version = Version(str(torch.__version__))
    if version.release < _SOUND_TORCH.release:
        raise IncompatibleVersionError(
            f"{file} is a pickle, which torch {version} does not read safely (CVE-2026-24747). Install "
            f'a newer one, pip install "torch>={_SOUND_TORCH}", or convert the file to safetensors'
        )


def _is_entry(name: object, tensor: object) -> bool:
    is_dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return isinstance(name, str) and is_dense
