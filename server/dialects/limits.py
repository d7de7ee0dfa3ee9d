"""Ends of a text that llama.cpp knows and OpenAI's API does not: a time for the tokens, and a least indentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from codegen_edge.server.http.models import Running
from codegen_edge.server.http.wanted import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a completion ends early.

    Attributes:
        seconds: after the first token, as soon as a line has ended (t_max_predict_ms); None for ever.
        indent: a line that begins with fewer blanks is left out, and ends the text (n_indent).
    """

    seconds: float | None = None
    indent: int = 0


NO_LIMITS = Limits()


class _Lines:
    """A choice's text by lines; the beginning of a line is held back until its indentation is known."""

    def __init__(self, indent: int) -> None:
        self._indent = indent
        self._held = ""
        self.has_line = False
        self.is_over = False

    def take(self, text: str) -> str:
        """What may be given out now."""
        self.has_line = self.has_line or "\n" in text
        if not self._indent:
            return text
        taken = ""
        for character in text:
            if character == "\n" or (self._held and character in " \t"):
                self._held += character
                continue
            if self._held and len(self._held) - self._held.rindex("\n") - 1 < self._indent:
                self.is_over, self._held = True, ""
                return taken
            taken += self._held + character
            self._held = ""
        return taken

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held


async def limited(
    updates: AsyncGenerator[Update, None], running: Running, limits: Limits, num_choices: int
) -> AsyncIterator[Update]:
    """The updates, to where the limits end them; the job is cancelled when nobody waits for more of it."""
    clock = asyncio.get_running_loop().time
    by_choice: dict[int, _Lines] = {}
    ended: set[int] = set()
    started_at: float | None = None
    async with aclosing(updates):
        async for update in updates:
            started_at = clock() if started_at is None else started_at
            if update.choice in ended:
                continue
            lines = by_choice.setdefault(update.choice, _Lines(limits.indent))
            text, reason = lines.take(update.text), update.finish_reason
            is_late = limits.seconds is not None and clock() - started_at >= limits.seconds
            if lines.is_over:
                reason = "length"
            elif reason is None and lines.has_line and is_late:
                reason = "deadline"
            if reason is not None:
                text += lines.rest()
                ended.add(update.choice)
            yield replace(update, text=text, finish_reason=reason)
            if len(ended) == num_choices:
                running.cancel()
                return
