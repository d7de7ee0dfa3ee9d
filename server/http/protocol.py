"""uvicorn's HTTP/1.1 connection with a limit for the time that a request's head may take."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol_with_limit(header_seconds: float) -> type[asyncio.Protocol]:
    """A connection that is closed when the head of a request is not whole in this time.

    uvicorn limits only the pause between two requests. A client that sends a byte per second, or nothing at all, would
    keep its connection for good.
    """

    class LimitedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit_head()

        def data_received(self, data: bytes) -> None:
            if self._timer is None and not self._is_answering:
                self._limit_head()
            super().data_received(data)
            if self._is_answering:
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        @property
        def _is_answering(self) -> bool:
            """Whether the head of a request was read, and its answer is not whole."""
            return self.cycle is not None and not self.cycle.response_complete

        def _limit_head(self) -> None:
            self._timer = self.loop.call_later(header_seconds, self._give_up)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if not self._is_answering and not self.transport.is_closing():
                self.transport.abort()

    return LimitedProtocol
