"""Samples from several machines: Ray actors hold the model, the driver hands out work and owns the files."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from codegen_edge.dependencies import install_command
from codegen_edge.errors import BackendError, CodegenEdgeError, RuntimeUnavailableError
from codegen_edge.evaluation.runs.configuration import Settings
from codegen_edge.evaluation.runs.records import SampleLine
from codegen_edge.evaluation.runs.sampling import ModelSampler, Work, require_fingerprint
from codegen_edge.generation.model import load_model

_MOST_DEATHS = 10  # of workers in a run; then it is not the machine that fails
_CONNECT_SECONDS = 5.0
_OBJECT_STORE_BYTES = 256 * 1024**2  # of a cluster that this starts: lines of text go through it, nothing larger


class RaySampler:
    """Samples of workers in a Ray cluster. Use it as a context manager.

    Attributes:
        workers: handles of the actors.
        num_deaths: workers that died and were replaced.

    A worker that dies is replaced, and what it was given is given to another one: no sample is lost, none differs.

    Args:
        address: of the cluster; "auto" finds one that runs here, "local" starts one for this run.
        bundle_path: of the bundle, at the same place on every machine.
        fingerprint: of the bundle; another one there is refused.
        workers: actors; Ray spreads them over the machines.
        settings, fields, batch: of `ModelSampler`.
        options: of `load_model`.

    Raises:
        RuntimeUnavailableError: Ray is not installed, or there is no cluster.
    """

    def __init__(
        self,
        address: str,
        bundle_path: str,
        fingerprint: str,
        *,
        workers: int,
        settings: Settings,
        fields: Mapping[str, Any],
        batch: int,
        options: Mapping[str, Any],
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use
        try:
            import ray
        except ImportError as exc:
            raise RuntimeUnavailableError(f"Ray is not installed: {install_command('cpu', 'ray')}") from exc
        self._ray = ray
        self._is_own = not ray.is_initialized()
        if self._is_own:
            _require_listener(address)
            known: dict[str, Any] = {"address": address}
            if address == "local":
                known |= {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
            try:
                ray.init(log_to_driver=False, **known)
            except (ConnectionError, RuntimeError, ValueError) as exc:
                raise RuntimeUnavailableError(f"no Ray cluster at {address!r}: {str(exc).splitlines()[0]}") from exc
        self._make = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_Worker).remote
        self._arguments = (bundle_path, fingerprint, settings, dict(fields), batch, dict(options))
        self.workers = [self._make(*self._arguments) for _ in range(workers)]
        self._chunk = batch
        self.num_deaths = 0

    def sample(self, work: Sequence[Work]) -> Iterator[SampleLine]:
        """See `Sampler`."""
        waiting = deque(chunks(work, self._chunk))
        idle = list(self.workers)
        running: dict[Any, tuple[Any, list[Work]]] = {}
        while waiting or running:
            while waiting and idle:
                worker, chunk = idle.pop(), waiting.popleft()
                running[worker.sample.remote(chunk)] = worker, chunk
            done, _ = self._ray.wait(list(running), num_returns=1)
            worker, chunk = running.pop(done[0])
            try:
                lines: list[SampleLine] = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError as exc:
                waiting.appendleft(chunk)
                idle.append(self._replaced(worker, exc))
                continue
            except self._ray.exceptions.RayTaskError as exc:
                raise _own_error(exc) from exc
            idle.append(worker)
            yield from lines

    def close(self) -> None:
        """Stop the workers, and the connection where this made it."""
        for worker in self.workers:
            self._ray.kill(worker)
        self.workers = []
        if self._is_own:
            self._ray.shutdown()

    def __enter__(self) -> RaySampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _replaced(self, worker: Any, exc: Exception) -> Any:
        self.num_deaths += 1
        if self.num_deaths > _MOST_DEATHS:
            raise BackendError(f"{self.num_deaths} workers died; the last one: {str(exc).splitlines()[0]}") from exc
        other = self._make(*self._arguments)
        self.workers[self.workers.index(worker)] = other
        return other


class _Worker:
    """What runs on another machine. The model is opened by the first work, whose error is then the driver's."""

    def __init__(
        self,
        bundle_path: str,
        fingerprint: str,
        settings: Settings,
        fields: Mapping[str, Any],
        batch: int,
        options: Mapping[str, Any],
    ) -> None:
        self._bundle_path, self._fingerprint, self._options = bundle_path, fingerprint, dict(options)
        self._settings, self._fields, self._batch = settings, fields, batch
        self._sampler: ModelSampler | None = None

    def process_id(self) -> int:
        return os.getpid()

    def sample(self, work: Sequence[Work]) -> list[SampleLine]:
        if self._sampler is None:
            model = load_model(self._bundle_path, **self._options)
            require_fingerprint(model.bundle, self._fingerprint)
            self._sampler = ModelSampler(model, self._settings, self._fields, batch=self._batch)
        return list(self._sampler.sample(work))


def _require_listener(address: str) -> None:
    """Raise RuntimeUnavailableError where nobody listens at "host:port"; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as exc:
        raise RuntimeUnavailableError(f"no Ray cluster at {address!r}: {exc.strerror or exc}") from exc


def chunks(work: Sequence[Work], size: int) -> Iterator[list[Work]]:
    """Work in parts of about `size` samples; what a worker that dies has to do again is one part at most."""
    chunk: list[Work] = []
    count = 0
    for each in work:
        for start in range(0, each.num_samples, size):
            part = Work(
                item=each.item,
                first_sample=each.first_sample + start,
                num_samples=min(size, each.num_samples - start),
            )
            chunk.append(part)
            count += part.num_samples
            if count >= size:
                yield chunk
                chunk, count = [], 0
    if chunk:
        yield chunk


def _own_error(exc: BaseException) -> CodegenEdgeError:
    """The worker's own error where it is one of ours."""
    cause = getattr(exc, "cause", None) or exc
    if isinstance(cause, CodegenEdgeError):
        return cause
    return BackendError(f"a worker failed: {type(cause).__name__}: {str(cause).splitlines()[-1] if str(cause) else ''}")
