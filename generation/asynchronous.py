"""Iterating a blocking iterator from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, TypeVar

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.cancel import CancelToken

_Item = TypeVar("_Item")


class AsyncEvents(AsyncIterator[_Item], Generic[_Item]):
    """The items of a blocking iterator; each one is computed in a thread, when it is asked for.

    Nothing runs ahead of the consumer: one that stops asking stops the generation. One whose task is cancelled while
    it waits (`asyncio.wait_for`, Ctrl-C under `asyncio.run`) cancels the step in flight. `async with` or `aclose` ends
    the iteration early and waits for its end.

    Args:
        make: called in a thread at the first `__anext__`, with the token that cancels; what it or its iterator raises
            is raised by `__anext__`.
        cancel: the caller's own token, which cancels as well. Leaving the iteration does not cancel it.
    """

    def __init__(self, make: Callable[[CancelToken], Iterator[_Item]], cancel: CancelToken | None = None) -> None:
        self._steps = _Steps(make, cancel)
        self._pending: asyncio.Future[tuple[_Item] | None] | None = None

    async def __anext__(self) -> _Item:
        if self._pending is not None:
            raise InvalidInputError("the last __anext__ has not ended; one consumer at a time")
        self._pending = asyncio.get_running_loop().run_in_executor(None, self._steps.advance)
        try:
            # The thread goes on when the waiting task is cancelled, so the future must not be.
            item = await asyncio.shield(self._pending)
        except asyncio.CancelledError:
            self._steps.token.cancel()
            # Whoever was cancelled does not want what the step raises; without a look asyncio logs it.
            self._pending.add_done_callback(_look)
            raise
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        if item is None:
            raise StopAsyncIteration
        return item[0]

    async def aclose(self) -> None:
        """Cancel what runs, wait for its end, and end the iteration."""
        self._steps.token.cancel()
        if self._pending is not None:
            await asyncio.wait([self._pending])
            self._pending = None
        await asyncio.get_running_loop().run_in_executor(None, self._steps.close)

    async def __aenter__(self) -> AsyncEvents[_Item]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._steps.token.cancel()


class _Steps(Generic[_Item]):
    """The blocking side, used by one thread at a time. It does not know the AsyncEvents, whose end must be seen."""

    def __init__(self, make: Callable[[CancelToken], Iterator[_Item]], cancel: CancelToken | None) -> None:
        self.token = CancelToken()
        self._make: Callable[[CancelToken], Iterator[_Item]] | None = make
        self._items: Iterator[_Item] | None = None
        self._callers = cancel

    def advance(self) -> tuple[_Item] | None:
        """The next item, None after the last."""
        with self._callers.calling(self.token.cancel) if self._callers is not None else contextlib.nullcontext():
            if self._make is not None:
                make, self._make = self._make, None
                self._items = iter(make(self.token))
            if self._items is None:
                return None
            try:
                return (next(self._items),)
            except StopIteration:
                self._items = None
                return None
            except BaseException:
                self._items = None
                raise

    def close(self) -> None:
        """End the iteration; what it holds is let go."""
        items, self._items, self._make = self._items, None, None
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _look(done: asyncio.Future[tuple[_Item] | None] | Future[tuple[_Item] | None]) -> None:
    if not done.cancelled():
        done.exception()
