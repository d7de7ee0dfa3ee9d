"""A process that grammars are tried in first: one that takes too long, too much memory or crashes takes it alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.line_process import LineProcess

MOST_SECONDS = 5.0  # of one grammar; 64 KiB that are meant take less than two

_PROGRAM = Path(__file__).with_name("trial.py")


class TrialProcess:
    """Compiles one grammar after another in a process of its own.

    Args:
        tokens: the bytes of every id.
        special_ids: ids that stand for no text.
    """

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int]) -> None:
        tokenizer = {
            "path": sys.path,
            "seconds": MOST_SECONDS,
            "tokens": [token.decode("latin-1") for token in tokens],
            "special_ids": list(special_ids),
        }
        purpose = "to compile a grammar in"
        self._process = LineProcess(["-I", str(_PROGRAM)], purpose=purpose, first_line=json.dumps(tokenizer))

    def compile(self, kind: str, text: str) -> str:
        """The compiled form of a description; see `trial`.

        Raises:
            InvalidInputError: it is malformed, or takes too much time or memory.
            BackendError: no process can be started.
        """
        answer = self._process.ask(json.dumps([kind, text]), most_seconds=MOST_SECONDS)
        if answer is None:
            raise InvalidInputError(
                f"the {kind} takes more than {MOST_SECONDS:g} s or 200 MB to compile; use a simpler one"
            )
        compiled, error = json.loads(answer)
        if compiled is None:
            raise InvalidInputError(f"the {kind} cannot be used: {error}")
        return str(compiled)

    def close(self) -> None:
        """End the process; the next grammar starts another one."""
        self._process.close()
