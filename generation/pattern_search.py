"""Regular expressions of users, searched so that none can hold the program up.

Python's `re` may take exponential time, and while it searches nothing else of the program runs: no signal, no deadline,
no cancellation. So an expression that may backtrack is searched by a process of its own, which is ended when it takes
too long. One that cannot, like all of CodeGen's own rules, is searched at once.
"""

from __future__ import annotations

import atexit
import json
import re
import threading
from collections.abc import Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.line_process import LineProcess

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
    return _searched([pattern.pattern for pattern in patterns], text)


def may_backtrack(pattern: str) -> bool:
    """Whether a search may take more than the time that it takes to read the text for each alternative."""
    return not _MAY_BACKTRACK.isdisjoint(pattern)


def _searched(patterns: Sequence[str], text: str) -> list[Span | None]:
    with _lock:
        answer = _process.ask(json.dumps([patterns, text]), most_seconds=MOST_SECONDS)
    if answer is None:
        named = ", ".join(repr(pattern) for pattern in patterns if may_backtrack(pattern))
        raise InvalidInputError(
            f"truncate_before holds {named}, which took more than {MOST_SECONDS:g} s on a text of "
            f"{len(text)} characters; use an expression without nested repetitions"
        )
    return [None if span is None else (span[0], span[1]) for span in json.loads(answer)]


_lock = threading.Lock()
_process = LineProcess(["-I", "-S", "-c", _SEARCHER], purpose="to search for truncate_before in")
atexit.register(_process.close)
