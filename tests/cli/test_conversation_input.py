"""`chat` on a terminal: a pseudo-terminal with readline's editing, as a person has it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle

pty = pytest.importorskip("pty")
readline = pytest.importorskip("readline")
UP = "\x1b[A"
PROMPT = "\x1b[?2004h>>> "  # a new one; readline draws the old one again while a line is edited
PASTE, END_OF_PASTE = "\x1b[200~", "\x1b[201~"
SECONDS = 60  # for a prompt to come


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, bundle: Path, home: Path) -> None:
        self._screen, theirs = pty.openpty()
        command = [sys.executable, "-m", "codegen_edge", "chat", str(bundle), "--max-new-tokens", "3"]
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "xterm"}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.wait_for(PROMPT)

    def wait_for(self, text: str) -> str:
        """What is printed up to and with `text`."""
        shown, end = b"", time.monotonic() + SECONDS
        while text.encode() not in shown:
            assert select.select([self._screen], [], [], max(0.0, end - time.monotonic()))[0], shown
            shown += os.read(self._screen, 4096)
        return shown.decode().replace("\r", "")

    def type(self, keys: str, until: str = PROMPT) -> str:
        """Type a line; what is shown until the next prompt."""
        os.write(self._screen, f"{keys}\n".encode())
        return self.wait_for(until)

    def quit(self) -> None:
        os.write(self._screen, b"/quit\n")
        assert self._process.wait(SECONDS) == 0
        os.close(self._screen)


@pytest.mark.skipif("libedit" in (readline.__doc__ or ""), reason="libedit marks no pastes")
def test_a_paste_is_one_input_and_lines_come_back(tiny_bundle: Bundle, tmp_path: Path) -> None:
    terminal = Terminal(tiny_bundle.path, tmp_path)
    terminal.type(f"{PASTE}def f(x):\n    y = 1{END_OF_PASTE}")
    assert "def f(x):\n    y = 1\n" in terminal.type("/show")
    terminal.type("/undo")
    terminal.type(UP * 3)
    assert "def f(x):\n    y = 1\n" in terminal.type("/show")
    assert "def f(x):\n    y = 1\n" in terminal.type(UP)
    terminal.quit()
    history = tmp_path / "codegen-edge" / "chat_history"
    assert "/show" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_a_file_is_replaced_after_a_yes_only(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("mine\n")
    terminal = Terminal(tiny_bundle.path, tmp_path)
    terminal.type("x = 1")
    terminal.type(f"/save {path}", until="[y/N] ")
    terminal.type("")
    assert path.read_text() == "mine\n"
    terminal.type(f"/save {path}", until="[y/N] ")
    terminal.type("y")
    assert path.read_text().startswith("x = 1\n")
    terminal.quit()
