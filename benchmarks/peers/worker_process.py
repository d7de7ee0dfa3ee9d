"""A worker as its parent sees it: started, asked, and ended, with a limit on every answer."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_MOST_STDERR = 300  # characters of a process's last words that an error repeats
_ENDING_S = 10  # a process that closed its output ends within moments
# Offline, silent, and nothing of ours on the path but the workers themselves.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONWARNINGS": "ignore",
}


class WorkerError(Exception):
    """A worker answered with an error."""


class WorkerDiedError(WorkerError):
    """A worker is no more; whatever it is asked after that fails, too."""


class WorkerProcess:
    """A running worker; a context that ends it.

    Args:
        command: that starts it.
        limit_s: the longest that one answer may take.
        threads: told to OpenMP.

    Raises:
        WorkerDiedError: from the constructor, it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, limit_s: float, threads: int) -> None:
        self._limit_s = limit_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._is_late = False
        self.started_at = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                text=True,
                encoding="utf-8",
                cwd=REPOSITORY,
                env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other one
            )
        except OSError as exc:
            self._words.close()
            raise WorkerDiedError(f"it did not start: {exc}") from exc

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What was not written any more to a dead process is of no use.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._words.close()

    def started(self) -> None:
        """Wait for the worker's first line."""
        self._answer()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and give its answer.

        Raises:
            WorkerError: the answer is an error.
            WorkerDiedError: there is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise WorkerDiedError(self._ending()) from exc
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self._limit_s, self._end_late)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as exc:
            raise WorkerDiedError(self._ending()) from exc
        if answer["event"] == "error":
            raise WorkerError(answer["message"])
        return answer

    def _end_late(self) -> None:
        self._is_late = True
        self._process.kill()

    def _ending(self) -> str:
        if self._is_late:
            return f"it did not answer within {self._limit_s:.0f} s"
        try:
            code = self._process.wait(timeout=_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "it closed its output without an answer"
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][:_MOST_STDERR]}" if lines else ""
        return f"it was ended by signal {-code}{last}" if code < 0 else f"it ended with exit code {code}{last}"
