"""Stopping a generation from another thread or a signal handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CancelToken:
    """Cancels what it was given to. Safe to use from any thread and from a signal handler: it takes no lock."""

    def __init__(self) -> None:
        self._is_cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Cancel; a step in flight is interrupted."""
        self._is_cancelled = True
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` when cancelled, while the context lasts (at once if that has happened already)."""
        self._callbacks.append(callback)
        try:
            if self._is_cancelled:
                callback()
            yield
        finally:
            self._callbacks.remove(callback)
