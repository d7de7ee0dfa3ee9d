"""Iterating a blocking iterator from asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from codegen_edge.runtimes.generation.cancel import CancelToken

_Item = TypeVar("_Item")


async def events_from_thread(make: Callable[[], Iterator[_Item]], cancel: CancelToken) -> AsyncIterator[_Item]:
    """What `make` gives, which is made and iterated in a thread.

    Args:
        make: called in the thread; what it or its iterator raises is raised here.
        cancel: cancelled when the iteration is left early; the thread's end is awaited.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[_Item | None] = asyncio.Queue()

    def run() -> None:
        try:
            for item in make():
                loop.call_soon_threadsafe(queue.put_nowait, item)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    running = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        while (item := await queue.get()) is not None:
            yield item
        await running
    finally:
        if not running.done():
            cancel.cancel()
            await asyncio.wait([running])
        if running.done() and not running.cancelled():
            running.exception()  # seen: whoever left early does not want it
