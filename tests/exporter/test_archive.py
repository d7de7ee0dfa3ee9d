"""A release archive exports like its folder, and nothing in one decides where a file is written."""

from __future__ import annotations

import gzip
import io
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers

from codegen_edge.errors import CheckpointError, InvalidInputError, StorageError
from codegen_edge.exporter import archive as archives
from codegen_edge.exporter.archive import is_archive, unpacked_archive
from codegen_edge.exporter.tokenizer_files import load_tokenizer_files
from codegen_edge.workflows import export

NAME = "codegen-tiny"

Alter = Callable[[tarfile.TarFile], None]


@pytest.fixture(scope="module")
def release(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as the release has it: config.json and pytorch_model.bin, no tokenizer."""
    folder = tmp_path_factory.mktemp("release") / NAME
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    torch.save(load_file(tiny_checkpoint / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


def pack(folder: Path, archive: Path, alter: Alter = lambda _: None, *, format: int = tarfile.PAX_FORMAT) -> Path:
    """The folder as an archive, with what `alter` adds at its end."""
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz", format=format) as tar:
        tar.add(folder, folder.name)
        alter(tar)
    return archive


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> Alter:
    """Adds an empty member of a kind."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info)

    return add


def content(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def read(archive: Path, out: Path) -> None:
    with unpacked_archive(archive, out):
        pass


def refusal(archive: Path, tmp_path: Path, match: str) -> None:
    """It is refused in one line that names the archive, and nothing is left."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    with pytest.raises(CheckpointError, match=match) as caught:
        read(archive, out)
    assert str(caught.value).startswith(str(archive))
    assert "\n" not in str(caught.value)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "suffix", [".tar.gz", *(pytest.param(each, marks=pytest.mark.long) for each in (".tar", ".tgz"))]
)
def test_archive_gives_the_bundle_of_its_folder(tiny_checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    archive = pack(tiny_checkpoint, tmp_path / f"any-name{suffix}")
    for place in ("folder", "archive"):
        (tmp_path / place).mkdir()
    export(tiny_checkpoint, tmp_path / "folder" / "out", verify=False)
    export(archive, tmp_path / "archive" / "out", verify=False)
    assert content(tmp_path / "archive" / "out") == content(tmp_path / "folder" / "out")
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["out"]


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_release_without_tokenizer_takes_another_folders(
    release: Path, tiny_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    archive = pack(release, tmp_path / f"{NAME}.tar.gz")
    with pytest.raises(CheckpointError, match="has no tokenizer.*from another folder") as caught:
        export(archive, tmp_path / "out", verify=False)
    assert "--tokenizer FOLDER" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]
    exported = export(archive, tmp_path / "out", tokenizer=tiny_checkpoint, precision=precision)
    assert exported.is_equal == (precision == "fp32")
    assert exported.bundle.manifest.source.name == NAME
    assert exported.bundle.tokenizer_path.read_bytes() == (tiny_checkpoint / "tokenizer.json").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "out"}


def test_tokenizer_that_is_none_is_refused_before_the_archive_is_read(release: Path, tmp_path: Path) -> None:
    archive = tmp_path / "broken.tar.gz"
    archive.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        export(archive, tmp_path / "out", tokenizer=tmp_path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_headers_is_read(release: Path, tmp_path: Path, format: int) -> None:
    long_name = "/".join(["a" * 60] * 3)  # more than a header holds: an extended one where the format has it
    archive = pack(release, tmp_path / "x.tar", format=format, alter=member(f"{NAME}/{long_name}/notes.txt"))
    with unpacked_archive(archive, tmp_path / "out") as located:
        assert located.name == NAME
        assert sorted(path.name for path in located.folder.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_files_at_the_root_take_the_archives_name(release: Path, tmp_path: Path) -> None:
    archive = tmp_path / "codegen-350M-mono.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(release, ".")
    with unpacked_archive(archive, tmp_path / "out") as located:
        assert located.name == located.folder.name == "codegen-350M-mono"


def test_only_the_files_of_a_checkpoint_are_written(release: Path, tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        for name in ("setup.py", "optimizer.bin", f"{NAME}/modeling_codegen.py", "._config.json"):
            member(name)(tar)

    with unpacked_archive(pack(release, tmp_path / "x.tgz", add), tmp_path / "out") as located:
        stage = located.folder.parent.parent
        assert {path.name for path in stage.rglob("*") if path.is_file()} == {"config.json", "pytorch_model.bin"}
        assert stage.parent == tmp_path
    assert not stage.exists()


def test_an_archive_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    assert [is_archive(name) for name in ("a.tar", "b/c.TAR.GZ", "d.tgz", "e.zip", "f", tmp_path / "folder.tar")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    with pytest.raises(CheckpointError, match="is not there"):
        export(tmp_path / "none.tgz", tmp_path / "out")
    with pytest.raises(InvalidInputError, match="is an archive; a revision is for hub ids"):
        export(tmp_path / "none.tgz", tmp_path / "out", revision="main")


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (member("/etc/config.json"), "'/etc/config.json' is refused, its path leads out"),
        (member("../config.json"), "'../config.json' is refused, its path leads out"),
        (member(f"{NAME}/../../vocab.json"), "vocab.json' is refused, its path leads out"),
        (member(f"{NAME}/link", tarfile.SYMTYPE, linkname="/etc/passwd"), "link' is refused, it is a link"),
        (member(f"{NAME}/hard", tarfile.LNKTYPE, linkname=f"{NAME}/config.json"), "hard' is refused, it is a link"),
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), "'null' is refused, it is a device or a FIFO"),
        (member("disk", tarfile.BLKTYPE), "'disk' is refused, it is a device or a FIFO"),
        (member("pipe", tarfile.FIFOTYPE), "'pipe' is refused, it is a device or a FIFO"),
        (member("strange", b"Z"), "'strange' is refused, it is of the unknown kind"),
        (member(f"{NAME}/config.json"), "config.json' is refused, it is there twice"),
        (member(f"./{NAME}//config.json"), "config.json' is refused, it is there twice"),
        (member("C:\\config.json"), "its name holds a character"),
        (member("line\nbreak"), "its name holds a character"),
        (member("n" * 300), "its name is too long"),
        (
            member("holes", pax_headers={"GNU.sparse.size": "1000000000", "GNU.sparse.numblocks": "0"}),
            "'holes' is refused, it is a sparse file",
        ),
        (member("a/config.json"), f"holds 2 checkpoints: config.json lies in a and in {NAME}"),
    ],
)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_member_that_no_checkpoint_has_is_refused_by_its_name(
    release: Path, tmp_path: Path, alter: Alter, reason: str, suffix: str
) -> None:
    refusal(pack(release, tmp_path / f"x{suffix}", alter), tmp_path, reason)
    assert not (tmp_path / "config.json").exists()


def test_old_sparse_members_are_refused(release: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10_000_000)
    command = ["tar", "--create", "--sparse", "--format=gnu", "--file", str(archive), "-C", str(tmp_path), "holes"]
    subprocess.run(command, check=True)
    (tmp_path / "holes").unlink()
    refusal(archive, tmp_path, "'holes' is refused, it is a sparse file")


def test_layouts_without_a_checkpoint_are_told(release: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.add(release / "pytorch_model.bin", "pytorch_model.bin")
    refusal(tmp_path / "none.tar", tmp_path, "holds no checkpoint: it has no config.json")
    (tmp_path / "place").rmdir()
    with tarfile.open(tmp_path / "apart.tar", "w") as tar:
        tar.add(release / "pytorch_model.bin", "weights/pytorch_model.bin")
        tar.add(release / "config.json", "model/config.json")
    refusal(tmp_path / "apart.tar", tmp_path, "has no weights in model")


def huge(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_member_larger_than_the_disk_is_refused_before_it_is_read(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(release, tmp_path / "x.tgz")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="0.00 GB free"):
        read(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_bomb_ends_at_the_bound_of_all_members(tmp_path: Path) -> None:
    archive = tmp_path / "x.tgz"
    archive.write_bytes(gzip.compress(huge("zeros", 10**12) + bytes(10_000_000)))
    refusal(archive, tmp_path, "'zeros' is refused, with it the archive unpacks to more than 128 GB")


def test_bomb_of_headers_takes_no_memory(tmp_path: Path) -> None:
    """tarfile reads extended headers and long names whole, whatever their size."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("header")
        info.type, info.size = kind, 8 * 10**9
        archive = tmp_path / "x.tgz"
        archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000)))
        refusal(archive, tmp_path, "a header takes more than 64 KiB")
        (tmp_path / "place").rmdir()


def test_bomb_after_the_end_mark_is_not_read(release: Path, tmp_path: Path) -> None:
    archive = pack(release, tmp_path / "x.tar")
    archive.write_bytes(archive.read_bytes() + bytes(5_000_000))
    refusal(archive, tmp_path, "more than padding follows its end mark")


def test_too_many_members_are_refused(release: Path, tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        for number in range(1001):
            member(f"empty-{number}")(tar)

    refusal(pack(release, tmp_path / "x.tgz", add), tmp_path, "holds more than 1000 members")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_archive_is_one_line(release: Path, tmp_path: Path, suffix: str, share: float) -> None:
    archive = pack(release, tmp_path / f"x{suffix}")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    refusal(archive, tmp_path, "damaged")


def test_archive_that_ends_between_two_members_is_damaged(release: Path, tmp_path: Path) -> None:
    archive = pack(release, tmp_path / "x.tar")
    archive.write_bytes(archive.read_bytes().rstrip(b"\0") + b"\0" * 512)
    with tarfile.open(archive) as tar:
        end = tar.getmembers()[-1]
    padded = end.offset_data + -(-end.size // 512) * 512
    archive.write_bytes(archive.read_bytes()[:padded].ljust(padded, b"\0"))
    refusal(archive, tmp_path, "damaged or was not downloaded whole: it ends before its end mark")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_flipped_bit_of_a_compressed_archive_is_found(release: Path, tmp_path: Path, place: float) -> None:
    archive = pack(release, tmp_path / "x.tgz")
    altered = bytearray(archive.read_bytes())
    altered[int(place * len(altered))] ^= 4
    archive.write_bytes(altered)
    refusal(archive, tmp_path, str(archive))


@pytest.mark.parametrize("text", [b"", b"<html>404 Not Found</html>", b"\x1f\x8bnothing", b"PK\x03\x04" * 1000])
def test_what_is_no_archive_is_one_line(tmp_path: Path, text: bytes) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(text)
    refusal(archive, tmp_path, "is no tar archive, or is damaged|is damaged or was not downloaded whole")


def test_random_headers_end_in_our_errors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("config.json", "ä" * 120, "x" * 120):
            member(name)(tar)
    archive = tmp_path / "x.tar"
    for _ in range(300):
        altered = bytearray(good.getvalue())
        for place in torch.randint(0, 6000, (8,), generator=generator).tolist():
            altered[place] = int(torch.randint(0, 256, (1,), generator=generator))
            block = place // 512 * 512  # with a checksum that fits
            header = bytearray(altered[block : block + 512])
            header[148:156] = b" " * 8
            altered[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        archive.write_bytes(altered)
        with pytest.raises(CheckpointError):
            read(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_disk_that_fills_leaves_nothing_behind(release: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; it needs a process of its own."""
    archive = pack(release, tmp_path / "x.tgz")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from codegen_edge.errors import StorageError\n"
        "from codegen_edge.exporter.archive import unpacked_archive\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with unpacked_archive(Path(sys.argv[1]), Path(sys.argv[2])):\n"
        "        pass\n"
        "except StorageError as exc:\n"
        "    sys.exit(str(exc))\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert hasattr(signal, "SIGXFSZ")
    arguments = [sys.executable, "-c", program, str(archive), str(tmp_path / "out")]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "no room left" in done.stderr
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stage_of_an_export_that_was_ended_goes_away(release: Path, tmp_path: Path, number: signal.Signals) -> None:
    """At once after SIGTERM; with the next export to the same place after SIGKILL."""
    archive = pack(release, tmp_path / "x.tgz")
    program = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from codegen_edge.exporter.archive import unpacked_archive\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with unpacked_archive(Path(sys.argv[1]), Path(sys.argv[2])):\n"
        "    print('unpacked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(archive), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "unpacked\n"
        assert len(list(tmp_path.iterdir())) == 2
        running.send_signal(number)
        running.wait(timeout=30)
    assert len(list(tmp_path.iterdir())) == (1 if number == signal.SIGTERM else 2)
    read(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_bundle_that_is_there_is_kept_unless_it_may_be_replaced(
    release: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    archive = pack(release, tmp_path / "x.tgz")
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInputError, match="allow to overwrite"):
        read(archive, tmp_path / "out")
    export(archive, tmp_path / "out", tokenizer=tiny_checkpoint, verify=False, overwrite=True)
    first = content(tmp_path / "out")
    export(archive, tmp_path / "out", tokenizer=tiny_checkpoint, verify=False, overwrite=True)
    assert content(tmp_path / "out") == first
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "out"}


def test_progress_is_of_the_archives_bytes(release: Path, tmp_path: Path) -> None:
    archive = pack(release, tmp_path / "x.tgz")
    seen: list[tuple[int, int]] = []
    with unpacked_archive(archive, tmp_path / "out", on_progress=lambda done, total: seen.append((done, total))):
        pass
    size = archive.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_a_members_data_is_read_in_chunks(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_CHUNK_BYTES", 1000)
    archive, started_at = pack(release, tmp_path / "x.tgz"), time.monotonic()
    with unpacked_archive(archive, tmp_path / "out") as located:
        for file in release.iterdir():
            assert (located.folder / file.name).read_bytes() == file.read_bytes()
    assert time.monotonic() - started_at < 30


def gpt2_like(folder: Path) -> Path:
    """A tokenizer of GPT-2's size: bytes, tokens that no text gives, the end of text."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: place for place, symbol in enumerate(alphabet)}
    vocabulary |= {f"unused{place}": place for place in range(len(alphabet), 50256)} | {"<|endoftext|>": 50256}
    tokenizer = BackendTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    return folder


@pytest.mark.parametrize("is_whole", [True, False])
def test_runs_of_whitespace_are_added_to_gpt2s_tokenizer(tmp_path: Path, is_whole: bool) -> None:
    folder = gpt2_like(tmp_path / "gpt2")
    if not is_whole:
        (folder / "tokenizer.json").unlink()
    plain = load_tokenizer_files(folder)
    assert (plain.vocab_size, plain.repairs) == (50257, ())
    files = load_tokenizer_files(folder, add_runs=True)
    assert files.vocab_size == 50295
    assert "added CodeGen's 38 runs" in files.repairs[0]
    tokenizer = BackendTokenizer.from_buffer(files.files["tokenizer.json"])
    for length in range(2, 32):
        assert tokenizer.encode(f"x{' ' * length}x").ids[1] == 50288 - length
    for length in range(2, 10):
        assert tokenizer.encode(f"x{chr(9) * length}x").ids[1] == 50296 - length
    assert tokenizer.encode("<|endoftext|>").ids == [50256]
