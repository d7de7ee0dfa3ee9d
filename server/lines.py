"""Lines for a stream that may be stuck: whoever reads it slowly, or not at all, holds up nobody here."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TextIO

_MOST_LINES = 1000  # that wait to be written
_CLOSE_SECONDS = 1.0


class LineWriter:
    """Writes to a stream from a thread of its own. Of what finds no room the number is kept, and written later.

    It has what `logging.StreamHandler` needs of a stream.

    Args:
        stream: for example sys.stderr.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: queue.Queue[str] = queue.Queue(_MOST_LINES)
        self._num_lost = 0
        threading.Thread(target=self._run, name="codegen-edge-lines", daemon=True).start()

    def write(self, text: str) -> None:
        """Write soon; never waits."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self._num_lost += 1

    def line(self, text: str) -> None:
        """Write a line soon."""
        self.write(f"{text}\n")

    def flush(self) -> None:
        """Nothing: lines are written as soon as the stream takes them."""

    def close(self) -> None:
        """Wait a moment for what is left."""
        until = time.monotonic() + _CLOSE_SECONDS
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            text = self._waiting.get()
            lost, self._num_lost = self._num_lost, 0
            if lost:
                text = f"{lost} lines were lost: nobody read them\n{text}"
            with contextlib.suppress(OSError, ValueError):  # the reader went away, or the stream was closed
                self._stream.write(text)
                self._stream.flush()
            self._waiting.task_done()
