"""A command in this process, from its words to its exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from codegen_edge import cli


@dataclass
class Done:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that an error is."""
        lines = self.stderr.strip().splitlines()
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0]


Run = Callable[..., Done]


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Run `main` as the script does."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    monkeypatch.setattr(sys, "argv", ["codegen-edge", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    printed = capsys.readouterr()
    code = exit_info.value.code
    return Done(code if isinstance(code, int) else 0 if code is None else 1, printed.out, printed.err)
