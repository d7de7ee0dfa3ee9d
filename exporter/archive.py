"""Reading a release archive: a .tar, .tar.gz or .tgz with config.json and pytorch_model.bin in one folder.

salesforce/CodeGen distributes its checkpoints this way (codegen-350M-mono.tar.gz). An archive comes from elsewhere, so
nothing in it decides where a file is written: the members are read one after another, every header is checked before
its data is touched, and only the files that a checkpoint needs are written, under their own names, into a stage beside
the bundle. The stage is removed after the export, after an error and after a signal; what a killed process left is
removed by the next export to the same place, as with every stage (bundle/storage.py).
"""

from __future__ import annotations

import fnmatch
import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from codegen_edge.bundle.storage import require_free_space, staged_folder, storage_errors
from codegen_edge.errors import CheckpointError
from codegen_edge.exporter.hub import CHECKPOINT_FILES, LocatedCheckpoint

Progress = Callable[[int, int], None]
"""Called with the bytes of the archive that are read, and the bytes in all."""

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_WEIGHT_SUFFIXES = (".bin", ".safetensors")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 4 * 1024 * 1024
_LONGEST_NAME = 255  # bytes, of a file on Linux
_MOST_MEMBERS = 1000  # a release has two files and their folder
_MOST_BYTES = 128 * 10**9  # of all members together, unpacked; four times the largest release
_MOST_HEADER_BYTES = (
    64 * 1024
)  # of one member: its header, a long name, extended attributes; tarfile keeps them in memory
_MOST_TRAILING_BYTES = 1024 * 1024  # after the last member: tar fills its last record, of 10 KiB by default


def is_archive(checkpoint: str | Path) -> bool:
    """Whether a checkpoint is named like a release archive, and is no folder."""
    path = Path(checkpoint)
    return path.name.lower().endswith(_SUFFIXES) and not path.is_dir()


@contextmanager
def unpacked_archive(
    archive: Path, out: Path, *, overwrite: bool = False, on_progress: Progress | None = None
) -> Iterator[LocatedCheckpoint]:
    """Give the checkpoint of a release archive as a folder, for as long as the `with` block runs.

    Args:
        archive: a tar file, plain or compressed with gzip.
        out: the bundle that is made of it; the stage lies beside.
        overwrite: whether a bundle at `out` may be replaced.
        on_progress: called while the archive is read.

    Yields:
        The checkpoint, under the name of its folder in the archive.

    Raises:
        CheckpointError: it is no archive, it is damaged, it holds a member that is refused, or no single checkpoint.
        InvalidInputError: `out` exists and may not be replaced.
        StorageError: the disk is full.
    """
    if not archive.is_file():
        raise CheckpointError(f"{archive} is not there, or is no file")
    with _scratch_folder(out, overwrite=overwrite) as stage:
        unpacking = _Unpacking(archive, stage, out)
        unpacking.run(on_progress or (lambda *_: None))
        yield unpacking.located()


class _Discarded(Exception):  # noqa: N818 - no error: it leaves `staged_folder` without putting the folder in place
    pass


@contextmanager
def _scratch_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A stage of `out` that is never put in its place: locked, removed and swept like every stage."""
    try:
        with staged_folder(out, overwrite=overwrite) as stage:
            yield stage
            raise _Discarded
    except _Discarded:
        pass


class _Unpacking:
    """One pass over an archive."""

    def __init__(self, archive: Path, stage: Path, out: Path) -> None:
        self._archive = archive
        self._stage = stage
        self._out = out
        self._names: set[PurePosixPath] = set()
        self._written: set[PurePosixPath] = set()
        self._folders: dict[PurePosixPath, Path] = {}  # where files of a folder of the archive are written
        self._total_bytes = 0

    def run(self, on_progress: Progress) -> None:
        """Check every member; write those that a checkpoint needs."""
        size_bytes = self._archive.stat().st_size
        with self._archive.open("rb") as raw, _decompressed(raw) as file:
            stream = _Stream(file, self._archive, lambda: on_progress(raw.tell(), size_bytes))
            for member in stream.members():
                self._check(member)
                path = PurePosixPath(member.name)
                if member.isfile() and any(fnmatch.fnmatchcase(path.name, name) for name in CHECKPOINT_FILES):
                    self._write(stream, member, path)
            stream.finish()

    def located(self) -> LocatedCheckpoint:
        """The only folder with a config.json."""
        found = sorted(folder for folder in self._folders if folder / "config.json" in self._written)
        if not found:
            raise CheckpointError(
                f"{self._archive} holds no checkpoint: it has no config.json, which a release archive holds in one "
                "folder with pytorch_model.bin"
            )
        if len(found) > 1:
            raise CheckpointError(
                f"{self._archive} holds {len(found)} checkpoints: config.json lies in {found[0]} and in {found[1]}"
            )
        (folder,) = found
        if not any(name.parent == folder and name.suffix in _WEIGHT_SUFFIXES for name in self._written):
            raise CheckpointError(f"{self._archive} has no weights in {folder}, where its config.json lies")
        return LocatedCheckpoint(self._folders[folder], self._name_of(folder), None)

    def _check(self, member: tarfile.TarInfo) -> None:
        path = PurePosixPath(member.name)  # without `./` and doubled slashes: one path has one spelling
        if path.is_absolute() or ".." in path.parts:
            self._refuse(member, "its path leads out of the archive")
        if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in path.parts):
            self._refuse(member, "its name is too long")
        if not member.name.isprintable() or "\\" in member.name or ":" in member.name:
            self._refuse(member, "its name holds a character that no file of a checkpoint has")
        if member.issym() or member.islnk():
            self._refuse(member, "it is a link")
        if member.isdev():
            self._refuse(member, "it is a device or a FIFO")
        if member.issparse():
            self._refuse(member, "it is a sparse file")
        if not member.isfile() and not member.isdir():
            self._refuse(member, f"it is of the unknown kind {member.type!r}")
        if path in self._names:
            self._refuse(member, "it is there twice")
        self._names.add(path)
        if len(self._names) > _MOST_MEMBERS:
            raise CheckpointError(f"{self._archive} was not read: it holds more than {_MOST_MEMBERS} members")
        if member.size < 0:
            self._refuse(member, f"its size is {member.size}")
        self._total_bytes += member.size
        if self._total_bytes > _MOST_BYTES:
            self._refuse(member, f"with it the archive unpacks to more than {_MOST_BYTES / 1e9:.0f} GB")

    def _refuse(self, member: tarfile.TarInfo, reason: str) -> None:
        raise CheckpointError(f"{self._archive} was not read: {member.name!r} is refused, {reason}")

    def _write(self, stream: _Stream, member: tarfile.TarInfo, path: PurePosixPath) -> None:
        require_free_space(self._stage, member.size)
        if path.parent not in self._folders:
            # Numbered, so that names of the archive can neither meet nor hide one another.
            folder = self._stage / str(len(self._folders)) / self._name_of(path.parent)
            with storage_errors(self._out):
                folder.mkdir(parents=True)
            self._folders[path.parent] = folder
        self._written.add(path)
        with storage_errors(self._out), (self._folders[path.parent] / path.name).open("xb") as file:
            for chunk in stream.chunks(member.size):
                file.write(chunk)

    def _name_of(self, folder: PurePosixPath) -> str:
        """A folder's own name; of the archive's root the archive's."""
        if folder.name:
            return folder.name
        suffix = max((suffix for suffix in _SUFFIXES if self._archive.name.lower().endswith(suffix)), key=len)
        return self._archive.name[: -len(suffix)] or self._archive.name


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Stream:
    """An archive's bytes, read forward only; what tarfile takes for a file.

    tarfile reads headers, long names and extended attributes into memory at whatever size they claim. Here they have a
    budget per member; a member's own data is skipped, or read in chunks up to the size that its header states.

    Args:
        file: the bytes, decompressed.
        archive: for errors.
        on_chunk: called after every read.
    """

    def __init__(self, file: _Readable, archive: Path, on_chunk: Callable[[], None]) -> None:
        self._file = file
        self._archive = archive
        self._on_chunk = on_chunk
        self._position = 0
        self._budget = 0
        self._last_block = b""

    def members(self) -> Iterator[tarfile.TarInfo]:
        """The headers in their order; whoever iterates may read a member's data before the next one."""
        reader: tarfile.TarFile | None = None
        while True:
            self._budget = _MOST_HEADER_BYTES
            try:
                if reader is None:
                    reader = tarfile.TarFile(fileobj=self)  # type: ignore[arg-type]  # it needs tell, seek and read
                member = reader.next()
            # Malformed numbers and texts of extended headers raise ValueError, a chain of them RecursionError.
            except (tarfile.TarError, ValueError, RecursionError, OverflowError) as exc:
                raise CheckpointError(f"{self._archive} is no tar archive, or is damaged: {exc}") from exc
            if member is None:
                return
            yield member

    def finish(self) -> None:
        """Read what follows the last member, so that the checksum of gzip is compared.

        tarfile takes whatever it cannot read for the end; a whole archive ends in a block of zeros.
        """
        if self._last_block != bytes(tarfile.BLOCKSIZE):
            raise self._damaged("it ends before its end mark")
        for _ in range(_MOST_TRAILING_BYTES // tarfile.BLOCKSIZE):
            if not self._read_some(tarfile.BLOCKSIZE):
                return
        raise self._damaged("more than padding follows its end mark")

    def chunks(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes."""
        while size:
            chunk = self._read_some(min(size, _CHUNK_BYTES))
            if not chunk:
                raise self._damaged("it ends within a member")
            size -= len(chunk)
            yield chunk

    def tell(self) -> int:
        """Bytes that were read."""
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        """Skip forward."""
        if whence != 0 or position < self._position:
            raise self._damaged("a header leads backwards")
        for _ in self.chunks(position - self._position):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Bytes of headers."""
        if not 0 <= size <= self._budget:
            raise CheckpointError(
                f"{self._archive} was not read: a header takes more than {_MOST_HEADER_BYTES // 1024} KiB"
            )
        self._budget -= size
        block = b""
        while len(block) < size and (chunk := self._read_some(size - len(block))):
            block += chunk
        self._last_block = block
        return block

    def _read_some(self, size: int) -> bytes:
        try:
            chunk = self._file.read(size)
        except EOFError as exc:
            raise self._damaged("its compressed data ends too early") from exc
        except (zlib.error, OSError) as exc:  # gzip reports a wrong checksum or header as an OSError
            raise self._damaged(str(exc)) from exc
        self._position += len(chunk)
        self._on_chunk()
        return chunk

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._archive} is damaged or was not downloaded whole: {reason}")


@contextmanager
def _decompressed(raw: IO[bytes]) -> Iterator[_Readable]:
    """The bytes of a tar file; its first bytes, not its name, say whether gzip compressed it."""
    is_gzip = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    raw.seek(0)
    if not is_gzip:
        yield raw
        return
    with gzip.GzipFile(fileobj=raw, mode="rb") as file:
        yield file
