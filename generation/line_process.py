"""A program that answers lines with lines, in a process that may be ended: what takes too long takes it alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence

from codegen_edge.errors import BackendError


class LineProcess:
    """Started when it is needed first, and again after it was ended. One question at a time.

    The program prints a line when it is ready, and then answers each line of its standard input with one line.

    Args:
        arguments: of Python, whose program it is.
        purpose: of the process, for messages: "to search for truncate_before in".
        first_line: what it is given before it is ready, or None.
    """

    def __init__(self, arguments: Sequence[str], *, purpose: str, first_line: str | None = None) -> None:
        self._arguments = list(arguments)
        self._purpose = purpose
        self._first_line = first_line
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a fork shares the pipes with its parent, and must not use them

    def ask(self, question: str, *, most_seconds: float) -> str | None:
        """The answer to a line; None where it took too long or ended the process, which is gone then.

        Args:
            question: a line without its end.
            most_seconds: that the answer may take; the start of the process is not a part of them.

        Raises:
            BackendError: no process can be started.
        """
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = self._started(), os.getpid()
        process = self._process
        timer = threading.Timer(most_seconds, process.kill)
        timer.start()
        answer = ""
        try:
            answer = _answer(process, question)
        finally:
            timer.cancel()
            # Also when it was interrupted: what it answers later belongs to no question.
            if not answer.endswith("\n"):
                self.close()
        return answer or None

    def close(self) -> None:
        """End the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        try:
            process = subprocess.Popen(
                [sys.executable or "python3", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for the program, not for this
            )
        except OSError as exc:
            raise BackendError(f"no process can be started {self._purpose}: {exc}") from exc
        if not _answer(process, self._first_line):
            process.communicate()
            raise BackendError(f"the process {self._purpose} ended with {process.returncode}")
        return process


def _answer(process: subprocess.Popen[str], question: str | None) -> str:
    """The next line, with its end, after a question where there is one; "" where the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if question is not None:
            process.stdin.write(question + "\n")
            process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return ""
