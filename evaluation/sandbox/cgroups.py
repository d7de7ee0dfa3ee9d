"""Control groups: the only limit on processes that binds the superuser too, and the only one on the memory of all.

Version 1 has a hierarchy for each controller, version 2 a single one; either may be read-only, or absent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codegen_edge.evaluation.sandbox.limits import MEBIBYTE, Limits

ROOT = Path("/sys/fs/cgroup")
_PREFIX = "codegen-edge-sandbox"
_NUMBERS = itertools.count()
_OWN_PROCESSES = 8  # bwrap's two, the zygote, a keeper and a warden, with a margin
_OWN_MEMORY_BYTES = 512 * MEBIBYTE
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group made for one zygote and all that it starts.

    Attributes:
        folders: in version 1 one for each controller that could be had, in version 2 one.
    """

    folders: tuple[Path, ...]

    @property
    def limits_processes(self) -> bool:
        """Whether the number of processes is limited."""
        return any((folder / "pids.max").exists() for folder in self.folders)

    @property
    def num_memory_kills(self) -> int:
        """How often the kernel killed a process for the group's memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError):
                    for line in (folder / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def add(self, pids: Iterable[int]) -> None:
        """Move processes into the group; their later children belong to it."""
        for folder in self.folders:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    (folder / "cgroup.procs").write_text(f"{pid}\n")

    def end(self) -> None:
        """Kill what is left in the group, and remove it."""
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        for folder in self.folders:
            while folder.exists() and time.monotonic() < give_up_at:
                with contextlib.suppress(OSError):
                    for pid in (folder / "cgroup.procs").read_text().split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.005)


def make_group(limits: Limits, *, root: Path = ROOT) -> ControlGroup | None:
    """Make a group that holds a zygote to `limits`, or None where none can be had.

    Args:
        limits: its processes and memory count for all processes together.
        root: where the hierarchies are mounted.
    """
    memory_bytes = limits.memory_bytes + limits.folder_bytes + _OWN_MEMORY_BYTES
    processes = limits.processes + _OWN_PROCESSES
    wanted = {
        "pids": {"pids.max": processes},
        "memory": {"memory.limit_in_bytes": memory_bytes, "memory.max": memory_bytes},
    }
    name = f"{_PREFIX}-{os.getpid()}-{next(_NUMBERS)}"
    folders = []
    for controllers, parent in _parents(root):
        _remove_stale(parent)
        folder = parent / name
        with contextlib.suppress(OSError):
            folder.mkdir()
            settings = [(folder / file, value) for each in controllers for file, value in wanted[each].items()]
            if _write_all(settings):
                folders.append(folder)
            else:
                folder.rmdir()
    return ControlGroup(tuple(folders)) if folders else None


def _parents(root: Path) -> list[tuple[tuple[str, ...], Path]]:
    """The group of this process in every hierarchy that limits processes or memory."""
    parents = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            names = tuple(name for name in controllers.split(",") if name in ("pids", "memory"))
            if names and (parent := root / ",".join(controllers.split(",")) / path.lstrip("/")).is_dir():
                parents.append((names, parent))
            elif not controllers and (root / "cgroup.controllers").exists():
                parents.append((("pids", "memory"), root / path.lstrip("/")))
    return parents


def _write_all(settings: list[tuple[Path, int]]) -> bool:
    written = 0
    for path, value in settings:
        if path.exists():
            path.write_text(f"{value}\n")
            written += 1
    return written > 0


def _remove_stale(parent: Path) -> None:
    """Remove the empty groups of supervisors that were killed."""
    for folder in parent.glob(f"{_PREFIX}-*"):
        pid = folder.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
