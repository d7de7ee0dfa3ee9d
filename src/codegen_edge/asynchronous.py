"""Iterating a blocking iterator from asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from codegen_edge.runtimes.generation.cancel import CancelToken

_Item = TypeVar("_Item")


class AsyncEvents(AsyncIterator[_Item], Generic[_Item]):
    """What a blocking iterator gives, which is made and iterated in a thread.

    A plain object and no async generator: one that is left by `break` is finalized by a task that may never run.

    Args:
        make: called in the thread at the first `__anext__`; what it or its iterator raises is raised here.
        cancel: cancelled when the iteration is left early.
    """

    def __init__(self, make: Callable[[], Iterator[_Item]], cancel: CancelToken) -> None:
        self._make = make
        self._cancel = cancel
        self._queue: asyncio.Queue[tuple[_Item] | None] = asyncio.Queue()
        self._running: asyncio.Future[None] | None = None

    async def __anext__(self) -> _Item:
        if self._running is None:
            run = _runner(self._make, asyncio.get_running_loop(), self._queue)
            self._running = asyncio.ensure_future(asyncio.to_thread(run))
        item = await self._queue.get()
        if item is None:
            self._queue.put_nowait(None)  # for whoever asks again
            await self._running
            raise StopAsyncIteration
        return item[0]

    async def aclose(self) -> None:
        """Cancel what still runs, and wait for its end."""
        if self._running is not None and not self._running.done():
            self._cancel.cancel()
            await asyncio.wait([self._running])
        if self._running is not None and not self._running.cancelled():
            self._running.exception()  # seen: whoever left early does not want it

    def __del__(self) -> None:
        if self._running is not None and not self._running.done():
            self._cancel.cancel()


def _runner(
    make: Callable[[], Iterator[_Item]], loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[tuple[_Item] | None]
) -> Callable[[], None]:
    """What the thread does; it holds no reference to the AsyncEvents, whose end must be seen."""

    def give(item: tuple[_Item] | None) -> bool:
        if loop.is_closed():
            return False
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:  # closed between the two
            return False
        return True

    def run() -> None:
        try:
            for item in make():
                if not give((item,)):
                    return
        finally:
            give(None)

    return run
