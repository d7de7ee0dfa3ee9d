"""Checkpoints and bundles made on the spot, once a session, and never changed: tests that alter one copy it."""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.dependencies import disable_telemetry
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint
from codegen_edge.runtimes import RUNTIMES

if TYPE_CHECKING:
    from tests.runtimes.gpu import GpuBundles

# What the conformance suite runs: the registered runtimes, a stand-in, the reference and the scripted fake.
CONFORMING = (*RUNTIMES, "cpu (exact steps)", "tensorrt (stand-in)", "reference", "scripted")

TEXTS = (
    "def hello_world():\n    print('hello world')\n\n\nfor i in range(10):\n\treturn i * 2  # again\n",
    "class Stack:\n    def push(self, item):\n        self.items.append(item)\n\n\nimport os\nimport sys\n",
) * 4
TINY = ModelShape(n_layer=2, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128)
# Sharp enough that a wrong position, mask or layout moves logits by far more than the tolerance.
SHARP = 0.25

disable_telemetry()  # some tests import onnxruntime and onnxruntime-genai themselves

MakeCheckpoint = Callable[..., Path]

# The first example of a test may load a library; how long it takes says nothing.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Write a random checkpoint; takes what `write_random_checkpoint` takes."""

    def make(shape: ModelShape = TINY, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / "codegen-tiny"
        write_random_checkpoint(folder, shape, **{"texts": TEXTS, "initializer_range": SHARP, **options})
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A float32 checkpoint of two layers. Read only."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint's text-generation bundle, not verified. Read only."""
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    return export_checkpoint(locate_checkpoint(str(tiny_checkpoint)), out)


@pytest.fixture(scope="session")
def static_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint's bundle of target tensorrt, not verified. Read only."""
    out = tmp_path_factory.mktemp("bundle") / "tiny-static"
    return export_checkpoint(locate_checkpoint(str(tiny_checkpoint)), out, ExportOptions(target="tensorrt"))


@pytest.fixture(scope="session")
def engine_bundle(static_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Engines of the static bundle, for the stand-in of TensorRT: 8 rows, chunks of 4, float32. Read only."""
    from codegen_edge.runtimes.builders import EngineOptions, build_engines
    from tests.runtimes.stand_ins import FakeBuilder, fake_library

    out = tmp_path_factory.mktemp("bundle") / "tiny-engines"
    options = EngineOptions(compute="fp32", chunk=4, batch_size=8)
    return build_engines(static_bundle, out, FakeBuilder(fake_library()), options)


@pytest.fixture(scope="session")
def gpu_bundles(tmp_path_factory: pytest.TempPathFactory) -> GpuBundles:
    """Builds bundles for this machine's GPU; a test that needs one is skipped where there is none."""
    from tests.runtimes.gpu import GpuBundles

    return GpuBundles(tmp_path_factory.mktemp("gpu"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the conformance suite, runtime by runtime: a skip is told, not lost. And what tests want to be told."""
    told = [
        f"{name}: {text}"
        for report in terminalreporter.stats.get("passed", [])
        for name, text in report.user_properties
    ]
    if told:
        terminalreporter.section("told by tests")
    for text in sorted(told):
        terminalreporter.line(text)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, str] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            match = re.search(r"test_conformance\.py::[^\[]+\[(.*)\]$", report.nodeid)
            if match is None:
                continue
            runtime = max((name for name in CONFORMING if name in match[1]), key=len, default=match[1])
            counts[runtime][outcome] += 1
            if outcome == "skipped":
                reasons[runtime] = report.longrepr[2].removeprefix("Skipped: ")
    if counts:
        terminalreporter.section("conformance")
    for runtime, count in sorted(counts.items()):
        line = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
        terminalreporter.line(f"{runtime}: {line}" + (f" ({reasons[runtime]})" if runtime in reasons else ""))


@pytest.fixture(scope="session")
def trained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the checkpoint that ships, not verified. Read only."""
    out = tmp_path_factory.mktemp("bundle") / "trained"
    return export_checkpoint(locate_checkpoint("codegen-5M-mono"), out)


@pytest.fixture(scope="session")
def feature_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint's feature-extraction bundle. Read only."""
    out = tmp_path_factory.mktemp("bundle") / "tiny-features"
    options = ExportOptions(task="feature-extraction")
    return export_checkpoint(locate_checkpoint(str(tiny_checkpoint)), out, options)


@pytest.fixture
def checkpoint_copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to alter."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the bundle to alter."""
    return open_bundle(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"), check="size")
