"""The server's ASGI app as a deployment of Ray Serve: replicas on one machine or many, behind Ray's proxy.

Every replica opens all bundles, and the `model` of a request's body chooses among them, as in `codegen-edge serve`.
Ray's own multiplexing (`serve.multiplexed`) is not used. It chooses by the header `serve_multiplexed_model_id`, which
no OpenAI client sends, and it closes the model that was used least recently although requests may still run on it.
Bundles that do not fit into one replica together belong in applications of their own, each with its `route_prefix`.

A replica that ends: Ray sends it no new requests and waits until those that run have ended, for `drain_seconds` of the
settings. Then the app's lifespan stops the engines. What still runs after that is cut off.

Ray is imported in this module only, and only by `build_app`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from codegen_edge.bundle import Check
from codegen_edge.errors import BackendError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation.model import load_model
from codegen_edge.server.engine.sizing import free_memory
from codegen_edge.server.http import ServedModel, ServerSettings, create_app
from codegen_edge.server.serving import Sharing, serve_model

if TYPE_CHECKING:
    from ray.serve import Application

_NAME = "codegen-edge"
_OTHER_REQUESTS = 8  # to /metrics, /ready and the page, beside the jobs that the engines take
_SILENT_SECONDS = 60.0  # an engine that shows no life for so long is started again
_MARGIN_SECONDS = 5.0  # for the engines to stop, after the requests that ran have ended


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """What a replica opens, and how it serves it.

    Attributes:
        bundles: folders, at the same paths on every machine.
        runtime, check, threads, exact_steps: of `load_model`, for each bundle.
        sharing: of every model's runtime.
        settings: of the HTTP layer.

    Raises:
        InvalidInputError: no bundle, no threads, or slots that each replica would have to choose itself.
    """

    bundles: tuple[Path, ...]
    runtime: str
    check: Check
    threads: int
    exact_steps: bool | None
    sharing: Sharing
    settings: ServerSettings

    def __post_init__(self) -> None:
        if not self.bundles:
            raise InvalidInputError("no bundle was given")
        if self.threads < 1:
            raise InvalidInputError(f"threads must be at least 1, got {self.threads}")
        if self.sharing.slots is None:
            raise InvalidInputError(
                "sharing.slots must be a number: replicas that start together would all count the same free memory"
            )


class OpenedApp:
    """The ASGI app of a replica, over models that it has opened.

    Args:
        plan: of the replica.
    """

    def __init__(self, plan: ReplicaPlan) -> None:
        free_bytes = free_memory()
        self.served: list[ServedModel] = []
        for bundle in plan.bundles:
            model = load_model(
                bundle, runtime=plan.runtime, check=plan.check, threads=plan.threads, exact_steps=plan.exact_steps
            )
            each, memory = serve_model(model, plan.sharing, free_bytes=free_bytes)
            self.served.append(each)
            if free_bytes is not None:
                free_bytes -= memory.slots * memory.bytes_per_slot + memory.prefix_bytes
        self._app: ASGIApp = create_app(self.served, plan.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application, whose paths begin below the application's `route_prefix`."""
        prefix = scope.get("root_path", "")
        if prefix:
            scope = {**scope, "root_path": "", "path": scope["path"].removeprefix(prefix) or "/"}
        await self._app(scope, receive, send)


@cache
def opened_in_this_process(plan: ReplicaPlan) -> OpenedApp:
    """The app of a plan, opened once: Ray makes the replica and its app by two calls that share no object.

    A replica is a process of its own.
    """
    return OpenedApp(plan)


class Replica:
    """What Ray constructs and watches; Ray's wrapper adds the app.

    Args:
        plan: what to open.
    """

    def __init__(self, plan: ReplicaPlan) -> None:
        self.opened = opened_in_this_process(plan)

    def check_health(self) -> None:
        """Called by Ray again and again; a replica that raises three times is replaced.

        Raises:
            BackendError: an engine has failed or shows no life.
        """
        for served in self.opened.served:
            engine = served.engine.snapshot()
            if not engine.is_alive:
                raise BackendError(f"{served.name}: the engine has failed")
            if engine.seconds_since_beat > _SILENT_SECONDS:
                raise BackendError(f"{served.name}: no step ended for {engine.seconds_since_beat:.0f} s")


def build_app(
    bundles: Sequence[str | Path],
    *,
    replicas: int = 1,
    max_replicas: int | None = None,
    threads: int = 2,
    runtime: str = "cpu",
    check: Check = "full",
    exact_steps: bool | None = None,
    sharing: Sharing | None = None,
    settings: ServerSettings | None = None,
    **options: Any,
) -> Application:
    """An application for `serve.run`.

    Args:
        bundles: folders, at the same paths on every machine; each model is named after its folder.
        replicas: how many there are, at least.
        max_replicas: how many there are at most, by the number of requests that run or wait; None keeps `replicas`.
        threads: of each model; Ray reserves as many CPUs for it.
        runtime, check: of `load_model`.
        exact_steps: of `load_model`; None takes them with runtime "cpu", as `codegen-edge serve` does.
        sharing: of every model's runtime, with a number of slots; four by default.
        settings: of the HTTP layer. `host` is the address that Ray's proxy listens on: others than local ones need a
            key, and `allowed_hosts`. `port` is not used.
        **options: of `serve.deployment`; they replace what is chosen here.

    Raises:
        InvalidInputError: a number is out of range.
        RuntimeUnavailableError: Ray Serve is not installed.
    """
    plan = ReplicaPlan(
        bundles=tuple(Path(bundle).absolute() for bundle in bundles),
        runtime=runtime,
        check=check,
        threads=threads,
        exact_steps=(runtime == "cpu" or None) if exact_steps is None else exact_steps,
        sharing=sharing or Sharing(slots=4),
        settings=settings or ServerSettings(),
    )
    chosen = deployment_options(plan, replicas, max_replicas) | options
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by Ray where it starts; no telemetry unless asked for
    try:
        from ray import serve
    except ImportError as exc:
        raise RuntimeUnavailableError(f'Ray Serve is missing ({exc}): pip install "ray[serve]"') from exc

    def make_app() -> ASGIApp:
        return opened_in_this_process(plan)

    return serve.deployment(**chosen)(serve.ingress(make_app)(Replica)).bind(plan)


def deployment_options(plan: ReplicaPlan, replicas: int, max_replicas: int | None) -> dict[str, Any]:
    """Options of `serve.deployment`.

    Args:
        plan: of a replica.
        replicas, max_replicas: see `build_app`.

    Raises:
        InvalidInputError: a number is out of range.
    """
    most = replicas if max_replicas is None else max_replicas
    if not 1 <= replicas <= most:
        raise InvalidInputError(f"replicas must be at least 1 and at most max_replicas, got {replicas} and {most}")
    slots, num_models = plan.sharing.slots, len(plan.bundles)
    assert slots is not None  # checked by the plan
    scaling: dict[str, Any] = (
        {"num_replicas": replicas}
        if max_replicas is None
        else {
            "autoscaling_config": {
                "min_replicas": replicas,
                "max_replicas": max_replicas,
                "target_ongoing_requests": slots,  # more would wait for a slot
            }
        }
    )
    return scaling | {
        "name": _NAME,
        "ray_actor_options": {"num_cpus": plan.threads * num_models},
        # An engine refuses what it has no room for, with a Retry-After; Ray would let it wait without an end.
        "max_ongoing_requests": num_models * (slots + plan.sharing.max_queued) + _OTHER_REQUESTS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": plan.settings.drain_seconds + _MARGIN_SECONDS,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
    }
