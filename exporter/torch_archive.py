"""The zip archive that torch.save writes, read with the standard library before torch maps it.

torch reads the archive with a reader of its own. What is accepted here has one meaning for both: one directory, at the
file's end, with plain names that differ, whose members are stored as they are.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

_MOST_PICKLE_BYTES = 4 * 1024 * 1024  # of data.pkl; CodeGen-16B's has 40 kB
_MOST_OTHER_BYTES = 64 * 1024  # of versions, byte order, …
_MOST_DIRECTORY_BYTES = 4 * 1024 * 1024
_MOST_MEMBERS = 2**15
_LONGEST_NAME = 255
_ENCRYPTED = 1  # flag of a member

_END = struct.Struct("<4s4H2LH")  # end of central directory (APPNOTE.TXT 4.3.16)
_LOCATOR_BYTES = 20
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory (4.3.14)


def read_archive(file: Path) -> tuple[bytes, dict[str, int]]:
    """The pickle of a torch archive, and the sizes of its storages.

    Args:
        file: a .bin file; nothing of its tensors is read.

    Returns:
        The content of data.pkl; and by key the bytes of each storage.

    Raises:
        ValueError, zipfile.BadZipFile: it is no archive as torch.save writes it.
        OSError: it cannot be read.
    """
    with file.open("rb") as raw:
        _check_directory(raw)
        with zipfile.ZipFile(raw) as archive:
            members = archive.infolist()
            folder = _checked_folder(members)
            pickles = [member for member in members if member.filename == f"{folder}/data.pkl"]
            if not pickles:
                raise ValueError("it has no data.pkl")
            prefix = f"{folder}/data/"
            sizes = {
                member.filename.removeprefix(prefix): member.file_size
                for member in members
                if member.filename.startswith(prefix)
            }
            return archive.read(pickles[0]), sizes


def _check_directory(file: io.BufferedReader) -> None:
    """Check that the directory ends where the file does: readers look for another one in different ways."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END.size - _LOCATOR_BYTES - _END64.size))
    tail = file.read()
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise ValueError("it does not end in a zip directory")
    _, _, _, _, _, length, start, num_comment = _END.unpack(tail[-_END.size :])
    end = size - _END.size
    if tail[-_END.size - _LOCATOR_BYTES :][:4] == b"PK\6\7":
        end -= _LOCATOR_BYTES + _END64.size
        if len(tail) < size - end or tail[:4] != b"PK\6\6":
            raise ValueError("its zip64 directory lies elsewhere")
        (at,) = struct.unpack_from("<Q", tail, _END64.size + 8)
        if at != end:
            raise ValueError("its zip64 directory lies elsewhere")
        *_, length, start = _END64.unpack(tail[: _END64.size])
    if num_comment or start + length != end:
        raise ValueError("its zip directory is not at its end")
    if length > _MOST_DIRECTORY_BYTES:
        raise ValueError(f"its zip directory has {length:,} bytes")


def _checked_folder(members: Sequence[zipfile.ZipInfo]) -> str:
    """Check every member; return the folder that all lie in."""
    if not 0 < len(members) <= _MOST_MEMBERS:
        raise ValueError(f"it has {len(members):,} members")
    folder = members[0].filename.partition("/")[0]
    for member in members:
        name = member.orig_filename
        if name != member.filename or not name.isascii() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ValueError(f"a member has the name {name[:_LONGEST_NAME]!a}")
        if not name.startswith(f"{folder}/"):
            raise ValueError(f"its members lie in two folders: {name!r} is not in {folder!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{name} is compressed, which torch.save never does")
        if member.flag_bits & _ENCRYPTED:
            raise ValueError(f"{name} is encrypted")
        most = _MOST_PICKLE_BYTES if name == f"{folder}/data.pkl" else _MOST_OTHER_BYTES
        if not name.startswith(f"{folder}/data/") and member.file_size > most:
            raise ValueError(f"{name} has {member.file_size:,} bytes; a state dict's has at most {most:,}")
    # torch finds members without regard to case.
    if len({member.filename.lower() for member in members}) < len(members):
        raise ValueError("two of its members have the same name")
    return folder
