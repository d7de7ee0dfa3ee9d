from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from codegen_edge.errors import CheckpointError, UnsafeCheckpointError
from codegen_edge.exporter.weights import open_weights

TENSORS = {"a.weight": torch.randn(3, 4), "b.bias": torch.randn(5).half(), "c": torch.randn(2).bfloat16()}


def write(folder: Path, layout: str) -> None:
    names = list(TENSORS)
    if layout == "safetensors":
        save_file(TENSORS, folder / "model.safetensors")
    elif layout == "bin":
        torch.save(TENSORS, folder / "pytorch_model.bin")
    else:
        kind = layout.removeprefix("sharded ")
        stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
        files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
        for file, part in zip(files, (names[:2], names[2:]), strict=True):
            tensors = {name: TENSORS[name] for name in part}
            if kind == "safetensors":
                save_file(tensors, folder / file)
            else:
                torch.save(tensors, folder / file)
        weight_map = {name: files[index > 1] for index, name in enumerate(names)}
        index_name = f"{stem}.{suffix}.index.json"
        (folder / index_name).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("layout", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_every_layout_reads_the_same_tensors(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout)
    weights = open_weights(tmp_path)
    assert weights.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        stored = weights.tensors[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(weights.read(name), tensor)


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    assert open_weights(tmp_path).files == (tmp_path / "model.safetensors",)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_hostile_pickle_is_refused_and_leaves_no_trace(tmp_path: Path, is_zip: bool) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "pytorch_model.bin"
    if is_zip:
        torch.save({"a": torch.zeros(1), "b": Hostile(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"b": Hostile(marker)}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)
    assert not marker.exists()


def test_hostile_pickle_is_called_unsafe(tmp_path: Path) -> None:
    torch.save({"b": Hostile(tmp_path / "marker")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match="more than tensors"):
        open_weights(tmp_path)


def test_pickle_is_never_loaded_without_restriction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = torch.load

    def record(*args: Any, **options: Any) -> Any:
        calls.append((options.get("weights_only"), options.get("mmap")))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", record)
    torch.save({"b": Hostile(tmp_path / "marker")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError):
        open_weights(tmp_path)
    assert not calls
    write(tmp_path, "bin")
    open_weights(tmp_path)
    assert calls == [(True, True)]


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        torch.zeros(1),
        {"a": 1},
        {"a": {"b": torch.zeros(1)}},
        {1: torch.zeros(1)},
        {"a": torch.eye(3).to_sparse()},
        {"a": torch.zeros(1, device="meta")},
    ],
)
def test_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no state dict"):
        open_weights(tmp_path)


def test_file_older_than_zip_archives_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch 1\.6"):
        open_weights(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\xff" * 64, b"<html></html>", b"version https://git-lfs.github.com/spec/v1"],
)
def test_malformed_file_is_refused_by_name(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        open_weights(tmp_path)


def test_what_a_header_says_is_told_in_one_line(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F\\n2","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as refused:
        open_weights(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_truncated_file_is_refused(tmp_path: Path, layout: str, kept: float) -> None:
    write(tmp_path, layout)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError):
        open_weights(tmp_path)


def test_git_lfs_pointer_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_weights(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_shard_outside_the_folder_is_refused(tmp_path: Path, shard: str) -> None:
    index = {"weight_map": {"a": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeCheckpointError, match="outside"):
        open_weights(tmp_path)


def test_whole_file_goes_before_a_stale_index(tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "old.safetensors"}}))
    assert open_weights(tmp_path).files == (tmp_path / "model.safetensors",)


def test_state_dict_of_a_module_is_read_with_its_metadata(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).bfloat16()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    assert open_weights(tmp_path).tensors.keys() == module.state_dict().keys()


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "pytorch_model.bin")
    assert open_weights(tmp_path).read("a").numpy().tolist() == [1, 1]


def test_error_never_advises_to_load_without_restriction(tmp_path: Path) -> None:
    torch.save({"b": Hostile(tmp_path / "marker")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"it wants io\.open") as error_info:
        open_weights(tmp_path)
    assert "weights_only" not in str(error_info.value)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, "sharded safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        open_weights(tmp_path)


def test_folder_without_weights_lists_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*pytorch_model\.bin"):
        open_weights(tmp_path)


def test_dtype_that_no_codegen_uses_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        open_weights(tmp_path)
