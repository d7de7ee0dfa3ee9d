"""Regular expressions of users, searched so that none can hold the program up.

Python's `re` may take exponential time, and while it searches nothing else of the program runs: no signal, no deadline,
no cancellation. So an expression that may backtrack is searched by a process of its own, which is ended when it takes
too long. One that cannot, like all of CodeGen's own rules, is searched at once.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence

from codegen_edge.errors import BackendError, InvalidInputError

MOST_SECONDS = 1.0  # of one search; an expression that is meant takes microseconds

Span = tuple[int, int]

# Repetitions and groups are what `re` goes back into.
_MAY_BACKTRACK = frozenset("*+?{(")

# The alarm ends it also when the process that asked is gone; SIGALRM is not for Python to handle here.
_SEARCHER = f"""
import json, re, signal, sys
print(flush=True)
for line in sys.stdin:
    patterns, text = json.loads(line)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, {2 * MOST_SECONDS})
    matches = [re.search(pattern, text, re.MULTILINE) for pattern in patterns]
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps([match and match.span() for match in matches]), flush=True)
"""


def search_all(patterns: Sequence[re.Pattern[str]], text: str) -> list[Span | None]:
    """The first match of each pattern, compiled with re.MULTILINE, as start and end.

    Raises:
        InvalidInputError: a search took longer than MOST_SECONDS.
        BackendError: no process can be started to search in.
    """
    if not any(may_backtrack(pattern.pattern) for pattern in patterns):
        return [match and match.span() for match in (pattern.search(text) for pattern in patterns)]
    return _process.search([pattern.pattern for pattern in patterns], text)


def may_backtrack(pattern: str) -> bool:
    """Whether a search may take more than the time that it takes to read the text for each alternative."""
    return not _MAY_BACKTRACK.isdisjoint(pattern)


class _SearchProcess:
    """A process that searches; started when it is needed first, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a fork shares the pipes with its parent, and must not use them

    def search(self, patterns: Sequence[str], text: str) -> list[Span | None]:
        with self._lock:
            answer = self._answer(json.dumps([patterns, text]))
        if answer is None:
            named = ", ".join(repr(pattern) for pattern in patterns if may_backtrack(pattern))
            raise InvalidInputError(
                f"truncate_before holds {named}, which took more than {MOST_SECONDS:g} s on a text of "
                f"{len(text)} characters; use an expression without nested repetitions"
            )
        return [None if span is None else (span[0], span[1]) for span in json.loads(answer)]

    def close(self) -> None:
        """End the process; the next search starts another one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _answer(self, question: str) -> str | None:
        """One line from the process; None where it took too long, and was ended."""
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = _started(), os.getpid()
            atexit.register(self.close)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(MOST_SECONDS, process.kill)
        timer.start()
        answer = ""
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
            # Also when it was interrupted: what it answers later belongs to no question.
            if not answer.endswith("\n"):
                self.close()
        return answer or None


def _started() -> subprocess.Popen[str]:
    try:
        process = subprocess.Popen(
            [sys.executable or "python3", "-I", "-S", "-c", _SEARCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the program, not for this
        )
    except OSError as exc:
        raise BackendError(f"no process can be started to search for truncate_before in: {exc}") from exc
    assert process.stdout is not None
    if not process.stdout.readline():  # its start is not a part of the search's time
        process.communicate()
        raise BackendError(f"the process to search for truncate_before in ended with {process.returncode}")
    return process


_process = _SearchProcess()
