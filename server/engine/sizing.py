"""How many slots fit into memory, shown as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError

_MOST_AUTOMATIC = 8  # a step of more rows costs each of them more time than most clients want to wait
_SHARE = 0.7  # of the free memory: the rest is for activations, prompts and the system
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What slots and cached prefixes take.

    Attributes:
        slots: rows that decode at the same time.
        bytes_per_slot: of keys and values of a full context.
        prefix_bytes: for prompts that are kept.
        free_bytes: of the machine when it was asked; None where it cannot be told.
    """

    slots: int
    bytes_per_slot: int
    prefix_bytes: int
    free_bytes: int | None

    @property
    def arithmetic(self) -> str:
        """In a line."""
        total = self.slots * self.bytes_per_slot + self.prefix_bytes
        free = "" if self.free_bytes is None else f" of {self.free_bytes / _GIB:.2f} GiB free"
        return (
            f"{self.slots} slots x {self.bytes_per_slot / _GIB:.2f} GiB + {self.prefix_bytes / _GIB:.2f} GiB of "
            f"prefixes = {total / _GIB:.2f} GiB{free}"
        )


def bytes_per_token(bundle: Bundle) -> int:
    """Keys and values of a token, in bytes."""
    from codegen_edge.runtimes.backends.kv_buffers import cache_dtype

    model = bundle.manifest.model
    return 2 * model.num_layers * model.num_heads * model.head_dim * cache_dtype(bundle.manifest).itemsize


def plan_memory(bundle: Bundle, slots: int | None, prefix_bytes: int, free_bytes: int | None) -> Memory:
    """Slots that fit; all of a context's memory is counted, though rows touch it as they grow.

    Args:
        bundle: that is served.
        slots: how many are wanted; None takes as many as fit, eight at most.
        prefix_bytes: for prompts that are kept.
        free_bytes: memory that may be used; None where it is not known.

    Raises:
        InvalidInputError: they do not fit, with the arithmetic.
    """
    per_slot = bytes_per_token(bundle) * (bundle.manifest.model.context_length + 1)
    if slots is not None and slots < 1:
        raise InvalidInputError(f"slots must be at least 1, got {slots}")
    if slots is None:
        if free_bytes is None:
            raise InvalidInputError("the free memory of this system cannot be told; give the number of slots")
        fitting = int((free_bytes * _SHARE - prefix_bytes) // per_slot)
        slots = max(1, min(_MOST_AUTOMATIC, fitting))
    memory = Memory(slots=slots, bytes_per_slot=per_slot, prefix_bytes=prefix_bytes, free_bytes=free_bytes)
    if free_bytes is not None and slots * per_slot + prefix_bytes > free_bytes:
        raise InvalidInputError(f"the slots do not fit: {memory.arithmetic}; take fewer, or less for prefixes")
    return memory


def free_memory() -> int | None:
    """Bytes that this process may use without swapping, or None where it cannot be told.

    Linux: MemAvailable, or what the limit of the control group leaves where that is less (cgroup v2).
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    if "MemAvailable" not in fields:
        return None
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    return available if limit is None or used is None else min(available, max(0, limit - used))


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
