"""What the supervisor tells the zygote's processes about one program; plain fields, for it crosses as JSON."""

from __future__ import annotations

from dataclasses import dataclass

MAX_MESSAGE_BYTES = 64 << 20  # HumanEval+ has tests of several megabytes
DEFAULT_FOLDER = "/tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One program to run. The tests and the nonce follow in a message of their own, when its process exists.

    Attributes:
        program: its text.
        entry_point: the function that the tests check; None for a program whose printed value counts.
        is_strict: whether the tests run in another process than the program.
        folder: its working directory, empty.
        uid: the real user it becomes; None: it stays who the zygote is.
        processes: RLIMIT_NPROC; other processes of the same user included where the kernel counts them.
        wall_seconds, cpu_seconds, memory_bytes, output_bytes, file_bytes, folder_bytes, open_files, stack_bytes: its
            limits.
    """

    program: str
    entry_point: str | None
    is_strict: bool
    folder: str
    uid: int | None
    processes: int
    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    output_bytes: int
    file_bytes: int
    folder_bytes: int
    open_files: int
    stack_bytes: int
