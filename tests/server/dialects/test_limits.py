"""Where a text ends early: a line that is indented less, and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from codegen_edge.server.dialects.limits import Limits, limited
from codegen_edge.server.http.models import Running
from codegen_edge.server.http.wanted import Update


async def pieces(*updates: Update) -> AsyncGenerator[Update, None]:
    for update in updates:
        yield update


def run(limits: Limits, *updates: Update, num_choices: int = 1) -> tuple[list[Update], bool]:
    """What is left of the updates, and whether the job was cancelled."""
    cancelled: list[bool] = []
    running = cast(Running, SimpleNamespace(cancel=lambda: cancelled.append(True)))

    async def collect() -> list[Update]:
        return [update async for update in limited(pieces(*updates), running, limits, num_choices)]

    return asyncio.run(collect()), bool(cancelled)


def text_of(*parts: str, **limits: Any) -> tuple[str, str | None]:
    updates = [Update(choice=0, text=part) for part in parts]
    found, _ = run(Limits(**limits), *updates, Update(choice=0, text="", finish_reason="end_of_text"))
    return "".join(update.text for update in found), found[-1].finish_reason


@pytest.mark.parametrize(
    ("parts", "expected", "reason"),
    [
        (["a\n    b\n", "    c\n  d\n"], "a\n    b\n    c", "length"),
        (["a\n", " ", "   b"], "a\n    b", "end_of_text"),
        (["a\n\n\n    b\n\n"], "a\n\n\n    b\n\n", "end_of_text"),
        (["  a\n", "b"], "  a", "length"),
        (["a\n\tb", "\n    c"], "a", "length"),
    ],
)
def test_line_that_is_indented_less_ends_the_text(parts: list[str], expected: str, reason: str) -> None:
    assert text_of(*parts, indent=4) == (expected, reason)


def test_without_limits_nothing_changes() -> None:
    assert text_of("a\n", "b\n") == ("a\nb\n", "end_of_text")


def test_time_ends_the_text_with_its_line() -> None:
    assert text_of("a", "b", "c\nd", "e", seconds=0.0) == ("abc\nd", "deadline")
    assert text_of("a\n", "b", seconds=100.0) == ("a\nb", "end_of_text")


def test_job_is_cancelled_when_all_of_its_choices_have_ended() -> None:
    updates = [
        Update(choice=0, text="a\nb"),
        Update(choice=1, text="a"),
        Update(choice=0, text="more"),
        Update(choice=1, text="b", finish_reason="length"),
        Update(choice=1, text="never"),
    ]
    found, is_cancelled = run(Limits(indent=1), *updates, num_choices=2)
    assert [(update.choice, update.text) for update in found] == [(0, "a"), (1, "a"), (1, "b")]
    assert is_cancelled
