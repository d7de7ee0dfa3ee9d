"""Checkpoints that are wrong or hostile: rows C01 to C12, and pickles that ask for time or memory."""

from __future__ import annotations

import io
import json
import pickle
import resource
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from codegen_edge.errors import CheckpointError, IncompatibleVersionError, UnsafeCheckpointError
from codegen_edge.exporter.checkpoint import open_checkpoint
from codegen_edge.exporter.weights import open_weights

MOST_SECONDS = 5.0  # of a refusal on a busy machine; each takes milliseconds
MOST_GROWTH_BYTES = 200 * 2**20
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
)
NAME = b"X\x01\x00\x00\x00a"


def write_archive(
    path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED, extra: Mapping[str, bytes] | None = None
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", bytes(8))
        for name, member in (extra or {}).items():
            archive.writestr(name, member)


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def state_dict(items: bytes) -> bytes:
    return b"\x80\x02}" + items + b"."


def doubled(operations: bytes, times: int = 45) -> bytes:
    """A tuple of two of a tuple of two of …, by memo."""
    return b")" + b"".join(b"q\x00h\x00" + operations for _ in range(times))


# What torch's own restricted unpickler would do with each is in the name.
HOSTILE_PICKLES = {
    "doubled tuples as a key take for ever to hash": state_dict(doubled(b"\x86") + TENSOR + b"s"),
    "doubled tuples as a value": state_dict(NAME + doubled(b"\x86") + b"s"),
    "a bytearray of 2 GB": state_dict(NAME + b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x80\x00\x85R" + b"s"),
    "a list of itself": state_dict(NAME + b"]q\x00h\x00a" + b"s"),
    "a set": state_dict(NAME + b"c__builtin__\nset\n)R" + b"s"),
    "a counter": state_dict(NAME + b"ccollections\nCounter\n)R" + b"s"),
    "100,000 empty mappings": state_dict(b"".join(NAME + b"}s" for _ in range(100_000))),
    "a name of 5,000 characters": state_dict(b"X\x88\x13\x00\x00" + b"a" * 5000 + TENSOR + b"s"),
    "an integer as a name": state_dict(b"K\x01" + TENSOR + b"s"),
    "a storage that is longer than its member": state_dict(
        NAME + TENSOR.replace(b"cpuK\x02", b"cpuJ\0\0\0\x40") + b"s"
    ),
    "a storage that is missing": state_dict(NAME + TENSOR.replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x009") + b"s"),
    "a tensor that repeats one number": state_dict(
        NAME + TENSOR.replace(b"K\x02\x85K\x01\x85", b"J\0\0\0\x40\x85K\x00\x85") + b"s"
    ),
    "a negative offset": state_dict(NAME + TENSOR.replace(b"tQK\x00", b"tQJ\xff\xff\xff\xff") + b"s"),
    "methods of the mapping": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
    "another pickle protocol": pickle.dumps({"a": 1}, protocol=4),
    "a tuple without its mark": b"\x80\x02t.",
    "a stack that is empty": b"\x80\x02R.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_pickle_that_hangs_or_takes_memory_is_refused_before_torch_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read it"))
    write_archive(tmp_path / "pytorch_model.bin", HOSTILE_PICKLES[name])
    started_at, peak = time.perf_counter(), peak_bytes()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)
    assert time.perf_counter() - started_at < MOST_SECONDS
    assert peak_bytes() - peak < MOST_GROWTH_BYTES


def deflated(path: Path) -> None:
    write_archive(path, state_dict(NAME + b"0" * 50_000_000), compression=zipfile.ZIP_DEFLATED)


def large(path: Path) -> None:
    write_archive(path, state_dict(b"(1" * 2_500_000))


def large_version(path: Path) -> None:
    write_archive(path, state_dict(NAME + TENSOR + b"s"), extra={"x/other": bytes(2**20)})


def two_names(path: Path) -> None:
    write_archive(path, state_dict(NAME + TENSOR + b"s"), extra={"x/DATA.PKL": state_dict(b"")})


def two_folders(path: Path) -> None:
    write_archive(path, state_dict(NAME + TENSOR + b"s"), extra={"y/data.pkl": state_dict(b"")})


def trailing(path: Path) -> None:
    write_archive(path, state_dict(NAME + TENSOR + b"s"))
    path.write_bytes(path.read_bytes() + b"PK\5\6" + bytes(30))


def two_archives(path: Path) -> None:
    write_archive(path, state_dict(NAME + TENSOR + b"s"))
    path.write_bytes(path.read_bytes() * 2)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * 2**30)


ARCHIVES = (deflated, large, large_version, two_names, two_folders, trailing, two_archives, sparse)


@pytest.mark.parametrize("write", ARCHIVES, ids=lambda write: write.__name__)
def test_archive_that_torch_save_never_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read it"))
    write(tmp_path / "pytorch_model.bin")
    started_at, peak = time.perf_counter(), peak_bytes()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)
    assert time.perf_counter() - started_at < MOST_SECONDS
    assert peak_bytes() - peak < MOST_GROWTH_BYTES


def test_written_by_hand_a_sound_pickle_is_read(tmp_path: Path) -> None:
    """The table above is refused for what it changes, not for how it is written."""
    write_archive(tmp_path / "pytorch_model.bin", state_dict(NAME + TENSOR + b"s"))
    assert open_weights(tmp_path).read("a").tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.bool, torch.int64])
def test_honest_pickles_are_read_as_before(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.ones(4, 6).to(dtype)
    tensors = {"a": whole, "view": whole[1:, ::2], "transposed": whole.t(), "scalar": torch.ones(()).to(dtype)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    weights = open_weights(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(weights.read(name), tensor)


def test_file_that_is_exchanged_is_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path)
    weights = open_weights(tmp_path)
    path.unlink()
    write_archive(path, HOSTILE_PICKLES["doubled tuples as a key take for ever to hash"])
    with pytest.raises(CheckpointError):
        weights.read("a")


@pytest.mark.parametrize("is_called", [True, False])
@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch.hub load", "torch.storage _load_from_bytes"])
def test_C01_pickle_that_names_a_function_is_unsafe(tmp_path: Path, name: str, is_called: bool) -> None:
    module, function = name.split()
    wanted = f"c{module}\n{function}\n".encode()
    value = wanted + (b")R" if is_called else b"")
    write_archive(tmp_path / "pytorch_model.bin", state_dict(NAME + value + b"s"))
    with pytest.raises(UnsafeCheckpointError, match=f"wants {module}.{function}"):
        open_weights(tmp_path)


def test_C02_refused_pickle_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, weights_only: bool, **__: object) -> None:
        assert weights_only
        calls.append(weights_only)
        raise pickle.UnpicklingError("Unsupported; re-run with weights_only=False")

    calls: list[bool] = []
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UnsafeCheckpointError) as error:
        open_weights(tmp_path)
    assert calls == [True]
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("version", ["2.5.1", "2.8.0+cu128", "2.9.1"])
def test_C03_torch_with_a_hole_reads_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read it"))
    with pytest.raises(IncompatibleVersionError) as error:
        open_weights(tmp_path)
    assert f"torch {version}" in str(error.value)
    assert 'pip install "torch>=2.10"' in str(error.value)


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git123", "2.13.0+cpu", "3.0"])
def test_C03_sound_torch_reads_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", version)
    assert open_weights(tmp_path).read("a").tolist() == [1, 1]


def test_C03_old_torch_reads_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    assert open_weights(tmp_path).read("a").tolist() == [1, 1]


def test_C04_pickle_that_is_called_safetensors_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    (tmp_path / "model.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_weights(tmp_path)


def header(fields: object, data: bytes = bytes(8)) -> bytes:
    text = json.dumps(fields).encode() if not isinstance(fields, bytes) else fields
    return len(text).to_bytes(8, "little") + text + data


def entry(**fields: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


SAFETENSORS = {
    "empty": b"",
    "seven bytes": bytes(7),
    "a header of 2^62 bytes": (2**62).to_bytes(8, "little") + b"{}",
    "a truncated header": header(entry())[:20],
    "truncated data": header(entry())[:-1],
    "trailing bytes": header(entry()) + b"x",
    "a header that is not UTF-8": header(b'{"\xff": 1}'),
    "a header that is no JSON": header(b"{]"),
    "an unknown dtype": header(entry(dtype="F31")),
    "a negative dimension": header(entry(shape=[-2])),
    "dimensions that overflow": header(entry(shape=[2**62, 2**62])),
    "offsets backwards": header(entry(data_offsets=[8, 0])),
    "a hole": header(entry(data_offsets=[4, 12]), bytes(12)),
    "an overlap": header(entry() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
    "a shape that is too large": header(entry(shape=[3])),
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_C05_malformed_safetensors_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(SAFETENSORS[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_weights(tmp_path)


SHARDS = {
    "missing": ("a.bin", CheckpointError),
    "5,000 characters": ("a" * 5000, CheckpointError),
    "256 bytes in 128 characters": ("é" * 128, CheckpointError),
    "a NUL": ("a\0.bin", CheckpointError),
    "half of a surrogate pair": ("\ud800", CheckpointError),
    "a line break": ("a\nb.bin", CheckpointError),
    "nothing": ("", CheckpointError),
    "up": ("../a.bin", UnsafeCheckpointError),
    "absolute": ("/etc/passwd", UnsafeCheckpointError),
    "5,000 folders": ("a/" * 5000, UnsafeCheckpointError),
}


@pytest.mark.parametrize("name", SHARDS)
def test_C06_index_with_a_bad_shard_is_refused(tmp_path: Path, name: str) -> None:
    shard, error = SHARDS[name]
    for stem in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / f"{stem}.index.json").write_text(json.dumps({"weight_map": {"t": shard}}))
        with pytest.raises(error) as raised:
            open_weights(tmp_path)
        assert len(str(raised.value)) < 1000
        str(raised.value).encode()  # it can be printed
        (tmp_path / f"{stem}.index.json").unlink()


CONFIGS = {
    "empty": b"",
    "no JSON": b"{]",
    "no object": b"[]",
    "UTF-16": "{}".encode("utf-16"),
    "100,000 levels": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"n_layer": ' + b"1" * 5000 + b"}",
    "half of a surrogate pair": b'{"model_type": "\\ud800"}',
    "duplicate keys": b'{"model_type": "codegen", "n_layer": 1, "n_layer": 2}',
    "duplicate keys inside": b'{"model_type": "codegen", "task_specific_params": {"a": 1, "a": 2}}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_C09_config_that_cannot_be_trusted_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_bytes(CONFIGS[name])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_C09_config_of_8_gb_is_refused_at_once(tmp_path: Path) -> None:
    sparse(tmp_path / "config.json")
    started_at, peak = time.perf_counter(), peak_bytes()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    assert time.perf_counter() - started_at < MOST_SECONDS
    assert peak_bytes() - peak < MOST_GROWTH_BYTES


def test_C09_index_with_duplicate_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b", "a": "c"}}')
    with pytest.raises(CheckpointError, match="there twice"):
        open_weights(tmp_path)
