"""How the server behaves towards its clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from codegen_edge.errors import InvalidInputError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the HTTP layer allows.

    Attributes:
        host, port: where it listens; port 0 lets the system choose.
        api_keys: any of them is accepted; empty asks for none.
        allowed_hosts: values of the Host header that are answered, without port; empty takes the local names and
            `host`, or all where a key is asked for. A page of another origin could otherwise reach a server without
            keys by a name of its own (DNS rebinding).
        cors_origins: origins whose pages may read answers; none by default.
        max_body_bytes: of a request.
        header_seconds, body_seconds: for a request to arrive.
        write_seconds: a reader that takes nothing for so long is cancelled.
        queue_seconds: a job that has no slot by then is answered 504.
        max_seconds: of a generation, from its prefill on; it ends with what it has.
        drain_seconds: for running jobs at shutdown.
        is_strict: whether unknown fields are refused; they are named in X-Ignored-Fields otherwise.
        logs_prompts: whether prompts may appear in the log.
        metrics_prefix: of the metrics' names.
        chat_template: a jinja2 template of `messages`; None joins their contents.

    Raises:
        InvalidInputError: a number out of range, or an address that others reach without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 1 << 20
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 10.0
    queue_seconds: float = 120.0
    max_seconds: float = 600.0
    drain_seconds: float = 30.0
    is_strict: bool = False
    logs_prompts: bool = False
    metrics_prefix: str = "codegen_edge"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidInputError(f"port must be in 0…65535, got {self.port}")
        if self.max_body_bytes < 1024:
            raise InvalidInputError(f"max_body_bytes must be at least 1024, got {self.max_body_bytes}")
        for name in ("header_seconds", "body_seconds", "write_seconds", "queue_seconds", "max_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.drain_seconds < 0:
            raise InvalidInputError(f"drain_seconds must be at least 0, got {self.drain_seconds}")
        if not all(self.api_keys) or any(not key.isascii() for key in self.api_keys):
            raise InvalidInputError("an API key must be a non-empty text of ASCII characters")
        if "*" in self.cors_origins:
            raise InvalidInputError("cors_origins takes exact origins, * would let any page read the answers")
        if not self.api_keys and not _is_local(self.host):
            raise InvalidInputError(
                f"{self.host} can be reached by others: give an API key, or listen on 127.0.0.1",
                hint="--api-key-file FILE",
            )

    @property
    def answered_hosts(self) -> frozenset[str] | None:
        """Host names that are answered; None answers all."""
        if self.api_keys and not self.allowed_hosts:
            return None
        return frozenset((*_LOCAL_NAMES, self.host, *self.allowed_hosts))


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may stand for any address
