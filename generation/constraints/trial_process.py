"""A process that grammars are tried in first: one that takes too long, too much memory or crashes takes it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from codegen_edge.errors import BackendError, InvalidInputError

MOST_SECONDS = 5.0  # of one grammar; 64 KiB that are meant take less than two

_PROGRAM = Path(__file__).with_name("trial.py")


class TrialProcess:
    """Started when it is needed first, and again after it was ended. One question at a time.

    Args:
        tokens: the bytes of every id.
        special_ids: ids that stand for no text.
    """

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int]) -> None:
        self._first_line = json.dumps(
            {
                "path": sys.path,
                "seconds": MOST_SECONDS,
                "tokens": [token.decode("latin-1") for token in tokens],
                "special_ids": list(special_ids),
            }
        )
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a fork shares the pipes with its parent, and must not use them

    def compile(self, kind: str, text: str) -> str:
        """The compiled form of a description; see `trial`.

        Raises:
            InvalidInputError: it is malformed, or takes too much time or memory.
            BackendError: no process can be started.
        """
        answer = self._answer(json.dumps([kind, text]))
        if answer is None:
            raise InvalidInputError(
                f"the {kind} takes more than {MOST_SECONDS:g} s or 200 MB to compile; use a simpler one"
            )
        compiled, error = json.loads(answer)
        if compiled is None:
            raise InvalidInputError(f"the {kind} cannot be used: {error}")
        return str(compiled)

    def close(self) -> None:
        """End the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _answer(self, question: str) -> str | None:
        """One line from the process; None where it took too much, and is ended."""
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = self._started(), os.getpid()
        process = self._process
        timer = threading.Timer(MOST_SECONDS, process.kill)
        timer.start()
        answer = ""
        try:
            answer = _asked(process, question)
        finally:
            timer.cancel()
            # Also when it was interrupted: what it answers later belongs to no question.
            if not answer.endswith("\n"):
                self.close()
        return answer or None

    def _started(self) -> subprocess.Popen[str]:
        try:
            process = subprocess.Popen(
                [sys.executable or "python3", "-I", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for the program, not for this
            )
        except OSError as exc:
            raise BackendError(f"no process can be started to compile a grammar in: {exc}") from exc
        if not _asked(process, self._first_line):  # its start is not a part of a grammar's time
            process.communicate()
            raise BackendError(f"the process to compile a grammar in ended with {process.returncode}")
        return process


def _asked(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""
