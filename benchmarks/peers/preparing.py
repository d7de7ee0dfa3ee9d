"""Before any round: is a system's environment there, is its form of the model, and does it fit the memory?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.artifacts import Artifacts, ConversionError
from benchmarks.peers.environments import NotInstalledError, python_of
from benchmarks.peers.rounds import SkippedError
from benchmarks.peers.system import System

# Most memory over the bytes of the float32 checkpoint, as seen with the 350M shape.
_RUN = {"fp32": 2.0, "bf16": 1.3, "int8": 1.0, "int4": 0.8}
_CONVERT = {"optimum": 4.5, "openvino": 3.0, "ctranslate2": 2.5}
_FREE = 0.9  # of the machine's memory


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a system is started with."""

    command: tuple[str, ...]
    model: Path


class Preparation:
    """Gives each system what it needs, once.

    Args:
        artifacts: of the shape.
        memory_bytes: of the machine, where it is known.
        on_skip: called with a line for every system that cannot be tried.
    """

    def __init__(
        self, artifacts: Artifacts, memory_bytes: int | None, on_skip: Callable[[str], None] = lambda _: None
    ) -> None:
        self._artifacts = artifacts
        self._memory_bytes = memory_bytes
        self._on_skip = on_skip
        self._found: dict[str, Prepared | str] = {}

    def prepare(self, system: System) -> None:
        """Convert what the system reads, where that was not done before."""
        if system.name not in self._found:
            self._found[system.name] = self._try(system)
            if isinstance(self._found[system.name], str):
                self._on_skip(f"{system.name}: skipped, {self._found[system.name]}")

    def of(self, system: System) -> Prepared:
        """What a prepared system is started with.

        Raises:
            SkippedError: it is not to be had here.
        """
        found = self._found[system.name]
        if isinstance(found, str):
            raise SkippedError(found)
        return found

    def _try(self, system: System) -> Prepared | str:
        try:
            python = python_of(system.peer) if system.peer else Path(sys.executable)
            too_much = self._too_much(system)
            if too_much:
                return too_much
            model = self._artifacts.path(system.artifact)
        except (NotInstalledError, ConversionError) as exc:
            return str(exc)
        return Prepared((str(python), "-m", f"benchmarks.peers.workers.{system.worker}"), model)

    def _too_much(self, system: System) -> str:
        if self._memory_bytes is None:
            return ""
        weights = self._artifacts.size_bytes("checkpoint")
        program = system.artifact.partition("-")[0]
        needed = weights * max(_RUN[system.precision], _CONVERT.get(program, 0))
        if needed <= _FREE * self._memory_bytes:
            return ""
        return f"it needs about {needed / 1e9:.0f} GB, this machine has {self._memory_bytes / 1e9:.0f} GB"
