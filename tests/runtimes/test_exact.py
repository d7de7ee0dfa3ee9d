"""Exact steps: the logits of every position are the same bytes, however the text was read, in every scheme."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.exactness import SCHEMES
from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation.model import Model, load_model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.backends import ort_exact
from codegen_edge.runtimes.backends.ort_exact import ExactOrtRuntime, step_noise
from codegen_edge.runtimes.runtime import KVCache
from codegen_edge.workflows import verify

DOCUMENTS = [np.random.default_rng(0).integers(0, 300, 120) for _ in range(6)]
LENGTH = 40
SCHEDULES = int(os.environ.get("CODEGEN_EDGE_SCHEDULES", "20"))  # for each variant; `make exactness` runs 1,000
ROWS = 3


@pytest.fixture(scope="module", params=list(SCHEMES))
def bundle(request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = SCHEMES[request.param]
    if not options:
        return tiny_bundle
    out = tmp_path_factory.mktemp("exact") / "bundle"
    return quantize_bundle(tiny_bundle, out, QuantizeOptions(**options), calibration_documents=DOCUMENTS)[0]


@pytest.fixture(scope="module")
def runtime(bundle: Bundle) -> Iterator[Runtime]:
    opened = open_runtime("cpu", bundle, exact_steps=True)
    assert isinstance(opened, ExactOrtRuntime)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def texts() -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, 600, (ROWS, LENGTH))


@pytest.fixture(scope="module")
def truth(runtime: Runtime, texts: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """[T, V] for each text, read at once and alone."""
    return [runtime.step(text[None], runtime.new_cache(1, LENGTH), all_logits=True)[0] for text in texts]


class Schedule:
    """Rows that read the texts in some order of steps, and look at the bytes of every logit on the way."""

    def __init__(self, runtime: Runtime, texts: NDArray[np.int64], truth: list[NDArray[np.float32]]) -> None:
        self.runtime, self.texts, self.truth = runtime, texts, truth
        self.cache: KVCache = runtime.new_cache(1, LENGTH)
        self.rows = [0]  # which text each row of the batch reads

    def read(self, count: int, all_logits: bool) -> None:
        """Every row reads up to `count` more tokens."""
        lengths = self.cache.lengths
        counts = np.minimum(count, LENGTH - lengths)
        if counts.min() >= 1:
            self._read(counts, all_logits)

    def _read(self, counts: NDArray[np.int64], all_logits: bool) -> None:
        lengths = self.cache.lengths
        ids = np.zeros((len(self.rows), int(counts.max())), np.int64)
        for row, (text, length, num_new) in enumerate(zip(self.rows, lengths, counts, strict=True)):
            ids[row, :num_new] = self.texts[text, length : length + num_new]
        logits = self.runtime.step(ids, self.cache, counts=counts, all_logits=all_logits)
        for row, (text, length, num_new) in enumerate(zip(self.rows, lengths, counts, strict=True)):
            if all_logits:
                expected, found = self.truth[text][length : length + num_new], logits[row, :num_new]
            else:
                expected, found = self.truth[text][length + num_new - 1], logits[row]
            assert found.tobytes() == expected.tobytes(), np.abs(found - expected).max()

    def read_ragged(self, counts: list[int], all_logits: bool) -> None:
        """Every row reads another number of tokens, in one run."""
        lengths = self.cache.lengths
        wanted = np.minimum(np.resize(counts, len(self.rows)), LENGTH - lengths)
        if wanted.min() < 1:
            return
        self._read(wanted, all_logits)

    def draft(self, count: int, accepted: int) -> None:
        """The first row alone reads drafted tokens; the first `accepted` are right, the others are taken back."""
        length = int(self.cache.lengths[0])
        count = min(count, LENGTH - length - 1)
        if len(self.rows) > 1 or count < 1:
            return
        text, right = self.rows[0], min(accepted, count)
        ids = self.texts[text, length : length + count + 1].copy()
        ids[1 + right :] = (ids[1 + right :] + 7) % 600
        logits = self.runtime.step(ids[None], self.cache, all_logits=True)[0]
        assert logits[: right + 1].tobytes() == self.truth[text][length : length + right + 1].tobytes()
        self.cache.rewind(0, length + right + 1)

    def join(self, text: int, count: int) -> None:
        """A row that has read the beginning of a text joins."""
        if len(self.rows) == 4:
            return
        other = self.runtime.new_cache(1, LENGTH)
        self.runtime.step(self.texts[text][None, :count], other)
        self.cache.join(other)
        self.rows.append(text)

    def leave(self, row: int) -> None:
        """A row leaves, the last one takes its place."""
        if len(self.rows) == 1:
            return
        row %= len(self.rows)
        kept = list(range(len(self.rows) - 1))
        if row < len(kept):
            kept[row] = len(self.rows) - 1
        self.cache.select(kept)
        self.rows = [self.rows[place] for place in kept]

    def rewind(self, row: int, count: int) -> None:
        """A row forgets its last tokens."""
        row %= len(self.rows)
        self.cache.rewind(row, max(0, int(self.cache.lengths[row]) - count))

    def reload(self) -> None:
        """All rows are saved, and read into a new cache."""
        saved = [self.cache.read_row(row) for row in range(len(self.rows))]
        self.cache = self.runtime.new_cache(len(self.rows), LENGTH)
        for row, tensors in enumerate(saved):
            self.cache.write_row(row, tensors)


STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("read"), st.just(1), st.just(False)),
    st.tuples(st.just("read_ragged"), st.lists(st.integers(1, 12), min_size=4, max_size=4), st.booleans()),
    st.tuples(st.just("draft"), st.integers(1, 6), st.integers(0, 6)),
    st.tuples(st.just("join"), st.integers(0, ROWS - 1), st.integers(1, 12)),
    st.tuples(st.just("leave"), st.integers(0, 3)),
    st.tuples(st.just("rewind"), st.integers(0, 3), st.integers(1, 8)),
    st.tuples(st.just("reload")),
)


@settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=3, max_size=14))
def test_no_schedule_changes_a_bit(
    steps: list[tuple[Any, ...]],
    runtime: Runtime,
    texts: NDArray[np.int64],
    truth: list[NDArray[np.float32]],
) -> None:
    schedule = Schedule(runtime, texts, truth)
    for name, *arguments in steps:
        getattr(schedule, name)(*arguments)


def test_probe_finds_no_difference(runtime: ExactOrtRuntime) -> None:
    assert step_noise(runtime) == 0


def test_text_is_the_same_alone_in_a_batch_with_drafts_and_in_a_session(bundle: Bundle, tmp_path: Path) -> None:
    prompts = ["def f(x):", "import os\n", "class Stack:\n    def push(self, item):", "x = 1"]
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.8, "seed": 5, "top_logprobs": 0}

    def all_ways(model: Model) -> None:
        alone = [model.generate(prompt, **options) for prompt in prompts]
        ways: dict[str, Callable[[], list[Any]]] = {
            "batch": lambda: model.generate(prompts, **options),
            "prompt-lookup": lambda: [model.generate(prompt, draft="prompt-lookup", **options) for prompt in prompts],
            "draft model": lambda: [model.generate(prompt, draft=model, **options) for prompt in prompts],
            "small chunks": lambda: [model.generate(prompt, prefill_chunk=3, **options) for prompt in prompts],
        }
        for name, way in ways.items():
            for one, other in zip(alone, way(), strict=True):
                assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs), name

        session = model.session()
        session.append(prompts[2])
        first = session.generate(**options)
        session.save(tmp_path / "session")
        session.append("\n    def pop(self):")
        for continued in (session, model.load_session(tmp_path / "session")):
            if continued is not session:
                continued.append("\n    def pop(self):")
            found = continued.fork().generate(**options)
            fresh = model.session()
            fresh._ids = list(continued.token_ids)
            expected = fresh.generate(**options)
            assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
        assert first.token_ids == alone[2].token_ids

    with load_model(bundle.path, exact_steps=True) as model:
        all_ways(model)


def test_kernel_that_is_not_exact_is_refused_with_what_was_measured(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_exact, "step_noise", lambda runtime: 2.5e-3)
    with pytest.raises(RuntimeUnavailableError, match=r"cannot be stepped exactly .* by up to 2\.5e-03"):
        open_runtime("cpu", tiny_bundle, exact_steps=True)


def test_steps_without_the_filler_are_found_by_the_probe(trained_bundle: Bundle, tmp_path: Path) -> None:
    """The probe can fail: it is not blind to what plain steps do."""
    out = tmp_path / "int4"
    quantized, _ = quantize_bundle(trained_bundle, out, QuantizeOptions(scheme="int4", method="round"))
    plain = open_runtime("cpu", open_bundle(quantized.path, check="size"))
    assert step_noise(plain) > 1e-6
    plain.close()


@pytest.mark.parametrize("name", ["static-cpu", "cuda", "tensorrt"])
def test_runtime_that_has_no_exact_steps_refuses_them(name: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match=f"runtime {name} has no exact_steps"):
        open_runtime(name, tiny_bundle, exact_steps=True)


def test_graph_of_an_earlier_version_warns_that_rows_meet(bundle_copy: Bundle) -> None:
    path = bundle_copy.model_path
    model = onnx.load(str(path), load_external_data=False)
    model.doc_string = "DynamicQuantizeMatMul"
    path.write_bytes(model.SerializeToString())
    opened = Bundle(bundle_copy.path, replace(bundle_copy.manifest, precision="int8-dynamic"))
    with pytest.warns(UserWarning, match="depends on the rows beside it. Quantize the fp32 bundle again"):
        open_runtime("cpu", opened).close()


def test_verify_records_what_steps_do_on_this_machine(bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    verified = verify(bundle_copy, tiny_checkpoint, num_steps=2)
    noise = verified.verdict["step_noise"]
    assert noise["exact"] == 0
    assert noise["plain"] >= 0
    parity = open_bundle(bundle_copy.path).manifest.parity
    assert parity is not None
    assert parity["step_noise"] == noise
    shown = CliRunner().invoke(cli, ["inspect", str(bundle_copy.path)]).stdout
    assert "exact: the same bits" in " ".join(shown.split())


def test_missing_package_is_named(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "codegen_edge.runtimes.backends.ort_exact")
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(RuntimeUnavailableError, match="needs onnx-ir .*: pip install onnx-ir"):
        open_runtime("cpu", tiny_bundle, exact_steps=True)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_last_token_of_a_full_context_is_read_as_exactly(rows: int, runtime: Runtime) -> None:
    """The filler behind it lies beyond the context, where the rotary tables of the bundle end."""
    context = runtime.config.context_length
    ids = np.random.default_rng(1).integers(0, 600, (rows, context))
    whole = runtime.step(ids[:1], runtime.new_cache(1, context))
    cache = runtime.new_cache(rows, context)
    runtime.step(ids[:, :-1], cache)
    assert runtime.step(ids[:, -1:], cache)[0].tobytes() == whole[0].tobytes()


def test_slice_of_any_length_is_read_as_exactly(runtime: Runtime) -> None:
    """Attention takes queries in tiles of twice the head size, 32 here; slices end before, at and behind them."""
    ids = np.random.default_rng(2).integers(0, 600, (3, 101))
    whole = [runtime.step(text[None], runtime.new_cache(1, 101), all_logits=True)[0] for text in ids]
    for cut in range(1, 101):
        cache = runtime.new_cache(3, 102)
        counts = np.array([cut, 101 - cut, 1 + cut % 7])
        first = np.zeros((3, int(counts.max())), np.int64)
        for row, count in enumerate(counts):
            first[row, :count] = ids[row, :count]
        logits = runtime.step(first, cache, counts=counts, all_logits=True)
        for row, count in enumerate(counts):
            assert logits[row, :count].tobytes() == whole[row][:count].tobytes(), f"row {row}, {count} tokens"
        rest = runtime.step(ids[:1, cut:], cut_cache(runtime, cache, cut), all_logits=True)
        assert rest[0].tobytes() == whole[0][cut:].tobytes(), f"{101 - cut} tokens behind {cut}"


def cut_cache(runtime: Runtime, cache: KVCache, length: int) -> KVCache:
    """The first row alone."""
    kept = runtime.new_cache(1, 101)
    kept.select([])
    kept.join(cache, [0])
    assert int(kept.lengths[0]) == length
    return kept
