"""The channel of a program's process to its warden."""

from __future__ import annotations

import os
from dataclasses import dataclass

from codegen_edge.evaluation.sandbox.frames import receive, send
from codegen_edge.evaluation.sandbox.job import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class OwnChannel:
    """A channel that one process only speaks on.

    A program may fork, and the copy returns from the program into our code as the original does: it ends there.

    Attributes:
        descriptor: of the channel.
        owner: the process that may speak.
    """

    descriptor: int
    owner: int

    def send(self, message: object) -> None:
        """Send a message."""
        self._check_owner()
        send(self.descriptor, message)

    def receive(self) -> dict[str, object]:
        """Wait for a message."""
        self._check_owner()
        return receive(self.descriptor, MAX_MESSAGE_BYTES)

    def _check_owner(self) -> None:
        if os.getpid() != self.owner:
            os._exit(0)
