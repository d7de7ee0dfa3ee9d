from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from codegen_edge import CancelToken, Model, load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import CancelledError, InvalidInputError
from codegen_edge.generation.asynchronous import AsyncEvents

STEP_SECONDS = 0.02


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path) as loaded:
        yield loaded


class Numbers:
    """A slow blocking iterator, as a generation is: counts its steps, and ends one in flight when cancelled."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.steps = 0
        self.is_closed = False
        self._fails_at = fails_at

    def make(self, token: CancelToken) -> Iterator[int]:
        interrupted = threading.Event()
        try:
            with token.calling(interrupted.set):
                while True:
                    if interrupted.wait(STEP_SECONDS):
                        raise CancelledError("the step was cancelled")
                    self.steps += 1
                    if self.steps == self._fails_at:
                        raise InvalidInputError("no more")
                    yield self.steps
        finally:
            self.is_closed = True


def run(main: Any) -> list[dict[str, Any]]:
    """Run a coroutine; what asyncio complained about meanwhile, or when all was collected."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(watched())
    gc.collect()
    return complaints


def assert_stopped(numbers: Numbers) -> None:
    """No step is made any more."""
    before = numbers.steps
    time.sleep(5 * STEP_SECONDS)
    assert numbers.steps <= before


def test_events_are_those_of_the_blocking_stream(model: Model) -> None:
    async def collect() -> list[tuple[str, int | None]]:
        return [(event.text, event.token_id) async for event in model.astream("def f", max_new_tokens=8)]

    expected = [(event.text, event.token_id) for event in model.stream("def f", max_new_tokens=8)]
    assert asyncio.run(collect()) == expected


def test_bad_input_is_raised_by_the_first_event(model: Model) -> None:
    async def fail() -> None:
        async for _ in model.astream("", max_new_tokens=3):
            pass

    with pytest.raises(InvalidInputError, match="empty"):
        asyncio.run(fail())


@pytest.mark.quiet
def test_a_consumer_that_times_out_stops_the_step_in_flight(model: Model) -> None:
    numbers = Numbers()

    async def consume() -> None:
        async for _ in AsyncEvents(numbers.make):
            pass

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consume(), 5 * STEP_SECONDS)

    started = time.monotonic()
    assert run(main()) == []
    assert time.monotonic() - started < 2
    assert 0 < numbers.steps <= 6
    assert numbers.is_closed
    assert_stopped(numbers)


def test_a_real_generation_that_times_out_makes_no_further_step(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = model.runtime.step

    def slow_step(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        time.sleep(STEP_SECONDS)
        return step(*arguments, **options)

    monkeypatch.setattr(model.runtime, "step", slow_step)

    async def consume() -> None:
        async for _ in model.astream("def f", max_new_tokens=100):
            pass

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consume(), 5 * STEP_SECONDS)

    assert run(main()) == []
    before = steps
    time.sleep(5 * STEP_SECONDS)
    assert 0 < steps == before < 20


@pytest.mark.quiet
def test_a_cancelled_main_task_ends_at_once() -> None:
    """What Ctrl-C does under `asyncio.run`."""
    numbers = Numbers()

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(3 * STEP_SECONDS, task.cancel)
        async for _ in AsyncEvents(numbers.make):
            pass

    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert time.monotonic() - started < 2
    assert_stopped(numbers)


def test_nothing_runs_for_a_consumer_that_stopped_asking() -> None:
    numbers = Numbers()
    kept: list[AsyncEvents[int]] = []

    async def main() -> None:
        events = AsyncEvents(numbers.make)
        kept.append(events)
        async for number in events:
            if number == 2:
                break
        await asyncio.sleep(5 * STEP_SECONDS)

    assert run(main()) == []
    assert numbers.steps == 2


def test_leaving_async_with_ends_the_iteration() -> None:
    numbers = Numbers()

    async def main() -> None:
        async with AsyncEvents(numbers.make) as events:
            assert await anext(events) == 1
        assert numbers.is_closed
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    assert run(main()) == []
    assert numbers.steps == 1


def test_aclose_while_another_task_waits_ends_its_step() -> None:
    numbers = Numbers()

    async def main() -> None:
        events = AsyncEvents(numbers.make)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        with pytest.raises(InvalidInputError, match="one consumer"):
            await anext(events)
        await events.aclose()
        with pytest.raises(CancelledError):
            await waiting

    assert run(main()) == []
    assert numbers.is_closed


def test_an_error_is_raised_once_and_the_iteration_is_over() -> None:
    numbers = Numbers(fails_at=2)

    async def main() -> None:
        events = AsyncEvents(numbers.make)
        assert await anext(events) == 1
        with pytest.raises(InvalidInputError, match="no more"):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    assert run(main()) == []


def test_the_callers_token_cancels_and_is_left_alone_otherwise() -> None:
    cancel, numbers = CancelToken(), Numbers()

    async def main() -> None:
        async with AsyncEvents(numbers.make, cancel) as events:
            assert await anext(events) == 1
        assert not cancel.is_cancelled
        events = AsyncEvents(Numbers().make, cancel)
        asyncio.get_running_loop().call_later(STEP_SECONDS / 2, cancel.cancel)
        with pytest.raises(CancelledError):
            await anext(events)

    assert run(main()) == []
