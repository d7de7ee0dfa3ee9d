"""The app on Ray Serve: what a replica opens and reports, and two replicas of which one is killed."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation.model import load_model
from codegen_edge.server.deployments import ray_serve
from codegen_edge.server.deployments.ray_serve import Replica, ReplicaPlan, build_app, deployment_options
from codegen_edge.server.http import ServerSettings
from codegen_edge.server.serving import Sharing

PROMPT = "def hello_world():\n    "
HAS_RAY = pytest.mark.filterwarnings("ignore")  # of Ray and what it brings along, none of which is ours
WITHOUT_RAY = "Ray is not installed: it needs an environment of its own with ray[serve]"
PATIENCE_SECONDS = 120.0
SHARING = Sharing(slots=2, max_queued=40, prefix_bytes=0)


def plan_of(*bundles: Path, **changes: Any) -> ReplicaPlan:
    plan = ReplicaPlan(
        bundles=bundles,
        runtime="cpu",
        check="size",
        threads=1,
        exact_steps=None,
        sharing=SHARING,
        settings=ServerSettings(),
    )
    return replace(plan, **changes)


@pytest.fixture
def replica(tiny_bundle: Bundle) -> Iterator[Replica]:
    ray_serve.opened_in_this_process.cache_clear()
    replica = Replica(plan_of(tiny_bundle.path))
    with ExitStack() as stack:
        for served in replica.opened.served:
            stack.enter_context(served.model)
        yield replica
    ray_serve.opened_in_this_process.cache_clear()


def test_replica_is_healthy_while_its_engines_show_life(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="tiny: the engine has failed"):
        replica.check_health()  # the lifespan has not started it
    with TestClient(replica.opened, base_url="http://localhost") as client:
        replica.check_health()
        assert client.get("/ready").status_code == 200
        monkeypatch.setattr(ray_serve, "_SILENT_SECONDS", -1.0)
        with pytest.raises(BackendError, match="tiny: no step ended for"):
            replica.check_health()
    with pytest.raises(BackendError, match="has failed"):
        replica.check_health()


def test_app_answers_below_a_route_prefix(replica: Replica, tiny_bundle: Bundle) -> None:
    (served,) = replica.opened.served
    wanted = {"model": tiny_bundle.path.name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    with TestClient(replica.opened, base_url="http://localhost", root_path="/tiny") as client:
        answer = client.post("/tiny/v1/completions", json=wanted).json()
        assert client.get("/tiny").text == client.get("/tiny/").text
        assert client.get("/tiny/page/app.js").status_code == 200
    assert answer["choices"][0]["text"] == served.model.generate(PROMPT, max_new_tokens=8).text


def test_replica_and_its_app_share_what_was_opened(replica: Replica, tiny_bundle: Bundle) -> None:
    assert Replica(plan_of(tiny_bundle.path)).opened is replica.opened


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundles": ()}, "no bundle was given"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"sharing": Sharing()}, "sharing.slots must be a number"),
    ],
)
def test_plan_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan_of(Path("bundle"), **changes)


def test_options_follow_from_slots_threads_and_drain() -> None:
    plan = plan_of(Path("a"), Path("b"), threads=3, settings=ServerSettings(drain_seconds=40))
    fixed = deployment_options(plan, 2, None)
    assert fixed["num_replicas"] == 2
    assert fixed["ray_actor_options"] == {"num_cpus": 6}
    assert fixed["max_ongoing_requests"] > 2 * (2 + 40)
    assert fixed["graceful_shutdown_timeout_s"] > 40
    scaled = deployment_options(plan, 2, 5)
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 2}


@pytest.mark.parametrize(("replicas", "most"), [(0, None), (3, 2)])
def test_numbers_of_replicas_are_checked(replicas: int, most: int | None) -> None:
    with pytest.raises(InvalidInputError, match="replicas must be at least 1 and at most max_replicas"):
        deployment_options(plan_of(Path("a")), replicas, most)


def test_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeUnavailableError, match=r'pip install "ray\[serve\]"'):
        build_app(["bundle"])


class Applications:
    """Ray Serve in this process: applications by their route prefix."""

    def __init__(self, ray: Any, serve: Any, url: str) -> None:
        self.ray = ray
        self.serve = serve
        self.url = url

    def run(self, name: str, bundle: Bundle, **options: Any) -> str:
        """Start an application; its URL."""
        application = build_app([bundle.path], threads=1, check="size", **({"sharing": SHARING} | options))
        self.serve.run(application, name=name, route_prefix=f"/{name}")
        return f"{self.url}/{name}"

    def replicas(self, name: str) -> set[str]:
        """Names of the actors of an application's replicas that live."""
        actors = self.ray.util.list_named_actors(all_namespaces=True)
        return {each["name"] for each in actors if each["name"].startswith(f"SERVE_REPLICA::{name}#")}

    def kill(self, replica: str) -> None:
        """As a machine that is switched off would."""
        self.ray.kill(self.ray.get_actor(replica, namespace="serve"), no_restart=True)

    def break_engines(self, replica: str) -> None:
        """The next step of every engine fails."""
        actor = self.ray.get_actor(replica, namespace="serve")
        assert self.ray.get(actor.__ray_call__.remote(break_engines_of_this_process)) == 1


def break_engines_of_this_process(_: Any) -> int:
    """Called in a replica; how many engines there are."""
    # Ray keeps a replica's objects from the garbage collector, which therefore does not know them.
    threads: list[Any] = [each for each in threading.enumerate() if each.name == "codegen-edge-engine"]
    engines = [each._target.__self__ for each in threads]
    for engine in engines:
        engine._scheduler.turn = None
    return len(engines)


@pytest.fixture(scope="module")
def applications() -> Iterator[Applications]:
    ray: Any = pytest.importorskip("ray", reason=WITHOUT_RAY)
    serve: Any = pytest.importorskip("ray.serve", reason=WITHOUT_RAY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # CPUs are what Ray counts, not what there is.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield Applications(ray, serve, f"http://127.0.0.1:{port}")
    finally:
        serve.shutdown()
        ray.shutdown()


def complete(url: str, *, tokens: int = 8) -> tuple[int, Any]:
    """Status and answer of a completion of the tiny bundle."""
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def metric(url: str, name: str) -> float:
    """The sum of a metric's samples whose line begins with `name`."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_SECONDS) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_until(what: str, condition: Any) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"it took too long until {what}"
        time.sleep(0.2)


@HAS_RAY
@pytest.mark.interop
def test_requests_go_on_when_one_of_two_replicas_is_killed(applications: Applications, tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path, check="size") as model:
        expected = model.generate(PROMPT, max_new_tokens=8, suppressed_ids=(model.runtime.config.eos_token_id,)).text
    url = applications.run("killed", tiny_bundle, replicas=2)
    before = applications.replicas("killed")
    assert len(before) == 2
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: complete(url), range(24)))
        assert {status for status, _ in answers} == {200}
        assert {answer["choices"][0]["text"] for _, answer in answers} == {expected}
        victim = sorted(before)[0]
        applications.kill(victim)
        answers = list(clients.map(lambda _: complete(url), range(48)))
        assert [status for status, _ in answers] == [200] * 48
        assert {answer["choices"][0]["text"] for _, answer in answers} == {expected}
    wait_until("there are two replicas", lambda: len(applications.replicas("killed") - {victim}) == 2)
    applications.serve.delete("killed")


@HAS_RAY
@pytest.mark.interop
def test_requests_that_run_end_before_their_replica_does(applications: Applications, tiny_bundle: Bundle) -> None:
    url = applications.run("drained", tiny_bundle, sharing=replace(SHARING, slots=1))
    num_requests = 30
    with ThreadPoolExecutor(num_requests) as clients:
        waiting = [clients.submit(complete, url, tokens=100) for _ in range(num_requests)]
        wait_until("a request has ended", lambda: any(each.done() for each in waiting))
        deleting = threading.Thread(target=applications.serve.delete, args=("drained",))
        deleting.start()
        num_running = sum(not each.done() for each in waiting)
        answers = [each.result() for each in waiting]
        deleting.join()
    assert num_running > num_requests // 2
    assert [status for status, _ in answers] == [200] * num_requests
    assert {answer["usage"]["completion_tokens"] for _, answer in answers} == {100}
    assert not applications.replicas("drained")
    assert complete(url)[0] == 404


@HAS_RAY
@pytest.mark.interop
def test_replicas_are_added_while_requests_wait(applications: Applications, tiny_bundle: Bundle) -> None:
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 0.5}
    url = applications.run("scaled", tiny_bundle, max_replicas=2, autoscaling_config=scaling)
    assert len(applications.replicas("scaled")) == 1
    is_scaled = threading.Event()
    with ThreadPoolExecutor(16) as clients:

        def ask(_: int) -> set[int]:
            statuses = set()
            while not is_scaled.is_set():
                statuses.add(complete(url, tokens=100)[0])
            return statuses

        asking = [clients.submit(ask, number) for number in range(16)]
        try:
            wait_until("there are two replicas", lambda: len(applications.replicas("scaled")) == 2)
        finally:
            is_scaled.set()
        assert set().union(*(each.result() for each in asking)) == {200}
    applications.serve.delete("scaled")


@HAS_RAY
@pytest.mark.interop
def test_replica_whose_engine_has_failed_is_replaced(applications: Applications, tiny_bundle: Bundle) -> None:
    url = applications.run("broken", tiny_bundle, health_check_period_s=0.5)
    (before,) = applications.replicas("broken")
    assert complete(url)[0] == 200
    applications.break_engines(before)
    assert complete(url)[0] == 503
    wait_until("there is another replica", lambda: applications.replicas("broken") - {before})
    wait_until("it answers", lambda: complete(url)[0] == 200)
    applications.serve.delete("broken")


@HAS_RAY
@pytest.mark.interop
def test_stream_comes_in_pieces_and_ends_with_its_client(applications: Applications, trained_bundle: Bundle) -> None:
    url = applications.run("streamed", trained_bundle)
    body = {"model": "trained", "prompt": PROMPT, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        pieces = [line for line in (next(response) for _ in range(40)) if line.startswith(b"data: {")]
        assert len(pieces) > 10
        assert metric(url, "codegen_edge:num_requests_running") == 1
    wait_until("the request has ended", lambda: metric(url, "codegen_edge:num_requests_running") == 0)
    assert metric(url, 'codegen_edge:request_success_total{finished_reason="cancelled"') == 1
    assert metric(url, "codegen_edge:generation_tokens_total") < 1500
    applications.serve.delete("streamed")
