"""A results folder: one configuration, its samples and its verdicts."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from codegen_edge.bundle.storage import replace_file, storage_errors
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.runs.configuration import Configuration
from codegen_edge.evaluation.runs.lines import LinesFile
from codegen_edge.evaluation.runs.records import Key, SampleLine, VerdictLine
from codegen_edge.evaluation.tasks.task import Item

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

_LineT = TypeVar("_LineT", SampleLine, VerdictLine)


class RunFolder:
    """Samples and verdicts of one configuration, each there once, on the disk as soon as it is added.

    From `opened`.

    Attributes:
        path: of the folder.
        configuration: of the run.
        samples, verdicts: those that are there, by item and number.
    """

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self.path = path
        self.configuration = configuration
        self._samples_file = LinesFile(path / "samples.jsonl")
        self._verdicts_file = LinesFile(path / "verdicts.jsonl")
        self._timings_file = LinesFile(path / "timings.jsonl")
        self.samples = self._read(self._samples_file, SampleLine)
        self.verdicts = self._read(self._verdicts_file, VerdictLine)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, configuration: Configuration) -> Iterator[RunFolder]:
        """Make the folder, or go on with one of the same configuration.

        Args:
            path: its parent must exist.
            configuration: of the run.

        Raises:
            InvalidInputError: the folder is of another configuration, holds other files, or a run works in it.
            StorageError: it cannot be written.
        """
        if not path.parent.is_dir():
            raise InvalidInputError(f"{path.parent} is not a folder; make it first")
        if path.exists() and not path.is_dir():
            raise InvalidInputError(f"{path} exists and is not a folder")
        with storage_errors(path):
            path.mkdir(exist_ok=True)
        with _alone(path):
            head = path / "configuration.json"
            if head.is_file():
                _check_same(head, configuration)
            elif any(path.iterdir()):
                raise InvalidInputError(f"{path} is not empty and no results folder; give another one", hint="--out")
            else:
                replace_file(head, _json(configuration.to_dict()))
            yield cls(path, configuration)

    def set_items(self, items: Sequence[Item]) -> None:
        """Write what a report shows beside the completions."""
        LinesFile(self.path / "problems.jsonl").replace(
            {"task_id": item.task_id, "prompt": "".join(turn.text for turn in item.turns), "reference": item.reference}
            for item in items
        )

    def add_samples(self, lines: Sequence[SampleLine], *, seconds: float = 0.0) -> None:
        """Add samples that took so long; what is there already is passed over."""
        fresh = [line for line in lines if line.key not in self.samples]
        if fresh:
            self._samples_file.append([self._marked(line) for line in fresh])
            self.samples |= {line.key: line for line in fresh}
        if seconds:
            tokens = sum(line.num_tokens for line in fresh)
            self._timings_file.append([{"samples": len(fresh), "tokens": tokens, "sampling_seconds": seconds}])

    def add_verdicts(self, lines: Sequence[VerdictLine], *, seconds: float = 0.0) -> None:
        """Add verdicts that took so long; what is there already is passed over."""
        fresh = [line for line in lines if line.key not in self.verdicts]
        if fresh:
            self._verdicts_file.append([self._marked(line) for line in fresh])
            self.verdicts |= {line.key: line for line in fresh}
        if seconds:
            self._timings_file.append([{"verdicts": len(fresh), "execution_seconds": seconds}])

    def timings(self) -> dict[str, float]:
        """Sums over all parts of the run: samples, tokens, sampling_seconds, verdicts, execution_seconds."""
        sums: dict[str, float] = {}
        for line in self._timings_file.read():
            for name, value in line.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def finish(self, results: Mapping[str, Any], order: Sequence[Key]) -> None:
        """Put the lines in order and write results.json.

        Args:
            results: what it holds.
            order: of all samples.
        """
        self._samples_file.replace(self._marked(self.samples[key]) for key in order)
        self._verdicts_file.replace(self._marked(self.verdicts[key]) for key in order)
        replace_file(self.path / "results.json", _json(results))

    def _marked(self, line: SampleLine | VerdictLine) -> dict[str, Any]:
        seed = self.configuration.fields.get("seed", 0)
        return line.to_dict() | {"seed": seed, "configuration": self.configuration.hash}

    def _read(self, file: LinesFile, kind: type[_LineT]) -> dict[Key, _LineT]:
        lines: dict[Key, _LineT] = {}
        for number, values in enumerate(file.read(), start=1):
            if values.get("configuration") != self.configuration.hash:
                raise InvalidInputError(f"{file.path}, line {number}: of another configuration")
            try:
                line = kind.from_dict(values)
            except (KeyError, TypeError) as exc:
                raise InvalidInputError(f"{file.path}, line {number}: damaged ({exc})") from exc
            lines.setdefault(line.key, line)
        return lines


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the folder for this process."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise InvalidInputError(f"another run works in {path}; wait for it, or give another folder") from exc
        yield
    finally:
        os.close(descriptor)


def _check_same(head: Path, configuration: Configuration) -> None:
    try:
        found = json.loads(head.read_bytes())
        found_hash = found["hash"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidInputError(f"{head} cannot be read ({exc}); give another folder", hint="--out") from exc
    if found_hash != configuration.hash:
        raise InvalidInputError(
            f"{head.parent} holds results of another configuration ({configuration.difference(found)}); "
            "give another folder",
            hint="--out",
        )


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1).encode() + b"\n"
