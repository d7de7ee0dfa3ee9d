"""Samples written on a Ray cluster are those of one process, also when workers die."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import codegen_edge
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, RuntimeUnavailableError
from codegen_edge.evaluation.runs import ModelSampler, SampleLine, Settings, Work
from codegen_edge.evaluation.runs.ray_sampling import RaySampler, chunks
from codegen_edge.evaluation.tasks.task import Item, Turn
from codegen_edge.workflows.task_evaluating import Cluster, evaluate_task
from tests.evaluation.runs.tasks import PROMPTS, EndTask

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = [
    pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: it needs an environment of its own with ray"),
    pytest.mark.filterwarnings("ignore"),  # of Ray and what it brings along, none of which is ours
]
SETTINGS = Settings(num_samples=6, temperature=0.8, seed=3)
TASK = EndTask(PROMPTS[:5], max_new_tokens=16)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster as RayCluster

    memory = {"object_store_memory": 100 * 1024**2, "num_cpus": 2}
    nodes = RayCluster(initialize_head=True, head_node_args=memory)
    nodes.add_node(**memory)
    yield nodes.address
    nodes.shutdown()


def work() -> list[Work]:
    return [Work(item=item, num_samples=SETTINGS.num_samples) for item in TASK.items()]


def by_key(lines: Iterator[SampleLine]) -> dict[tuple[str, int], SampleLine]:
    found = list(lines)
    assert len({line.key for line in found}) == len(found)
    return {line.key: line for line in found}


def sampler(cluster: str, bundle: Bundle, workers: int, path: Path | None = None) -> RaySampler:
    return RaySampler(
        cluster,
        str(path or bundle.path),
        bundle.fingerprint,
        workers=workers,
        settings=SETTINGS,
        fields=TASK.generation_fields(),
        batch=4,
        options={"threads": 1, "exact_steps": True},
    )


def in_process(bundle: Bundle) -> dict[tuple[str, int], SampleLine]:
    with codegen_edge.load_model(bundle.path, threads=1, exact_steps=True) as model:
        return by_key(ModelSampler(model, SETTINGS, TASK.generation_fields()).sample(work()))


class TestCluster:
    pytestmark = needs_ray

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_samples_are_those_of_one_process(self, cluster: str, tiny_bundle: Bundle, workers: int) -> None:
        with sampler(cluster, tiny_bundle, workers) as running:
            assert by_key(running.sample(work())) == in_process(tiny_bundle)

    def test_worker_that_is_killed_is_replaced(self, cluster: str, tiny_bundle: Bundle) -> None:
        import ray

        with sampler(cluster, tiny_bundle, 2) as running:
            pids = ray.get([worker.process_id.remote() for worker in running.workers])
            lines, found = running.sample(work()), []
            found.append(next(lines))
            os.kill(pids[0], signal.SIGKILL)
            found += lines
            assert {line.key: line for line in found} == in_process(tiny_bundle)
            assert len(found) == 30
            assert running.num_deaths >= 1

    def test_bundle_that_cannot_be_opened_there_is_our_own_error(
        self, cluster: str, tiny_bundle: Bundle, tmp_path: Path
    ) -> None:
        nowhere = tmp_path / "nowhere"
        with sampler(cluster, tiny_bundle, 1, nowhere) as running, pytest.raises(BundleError):
            list(running.sample(work()))

    def test_run_on_a_cluster_equals_a_run_here(self, cluster: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
        for name, where in (("here", None), ("there", Cluster(address=cluster, workers=2))):
            evaluate_task(
                TASK, tmp_path / name, bundle=tiny_bundle, settings=SETTINGS, threads=1, cluster=where, batch=4
            )
        for name in ("samples.jsonl", "verdicts.jsonl"):
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()

    def test_missing_cluster_is_one_line(self, tiny_bundle: Bundle) -> None:
        import ray

        ray.shutdown()
        with pytest.raises(RuntimeUnavailableError, match="no Ray cluster at"):
            sampler("127.0.0.1:1", tiny_bundle, 1)


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install(tiny_bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailableError, match="Ray is not installed: pip install"):
        sampler("auto", tiny_bundle, 1)


@given(counts=st.lists(st.integers(1, 30), max_size=8), size=st.integers(1, 10))
def test_chunks_hold_every_sample_once(counts: list[int], size: int) -> None:
    items = [
        Item(task_id=f"a/{number}", turns=(Turn(text="x", max_new_tokens=1),), reference="", gold=("",))
        for number in range(len(counts))
    ]
    given_work = [Work(item=item, num_samples=count) for item, count in zip(items, counts, strict=True)]
    parts = list(chunks(given_work, size))
    keys = [
        (work.item.task_id, work.first_sample + place)
        for part in parts
        for work in part
        for place in range(work.num_samples)
    ]
    assert keys == [(item.task_id, place) for item, count in zip(items, counts, strict=True) for place in range(count)]
    assert all(sum(work.num_samples for work in part) < 2 * size for part in parts)
