"""Prompts, stops and patterns that ask for time or memory: rows G08, G12 and G15, and prompts without end."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.cli.texts import read_prompt
from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.generation import GenerationLoop, GenerationParams, RunningBatch
from codegen_edge.generation.model import Model, load_model
from codegen_edge.generation.pattern_search import MOST_SECONDS, may_backtrack
from codegen_edge.generation.presets import PRESETS
from codegen_edge.generation.prompt_text import encode_prompts
from codegen_edge.generation.request import Request
from codegen_edge.generation.text import Cut
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime, script_of_tokens
from codegen_edge.tokenizer import Tokenizer
from tests.cli.running import run_main
from tests.processes import children_of, cpu_seconds, needs_proc, wait_until

SOON = 3.0  # seconds, on a busy machine; each takes milliseconds
MOST_GROWTH_BYTES = 300 * 2**20
HOSTILE_PATTERN = r"(a|a)*$(?<=b)x"


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path) as model:
        yield model


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Bundle) -> Tokenizer:
    return Tokenizer(tiny_bundle.tokenizer_path)


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "codegen_edge.cli", "generate", *map(str, arguments), "--max-new-tokens", "2"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=60, **options)


# Prompts that are too long ------------------------------------------------------------------------------------------


def test_prompt_of_10_mb_is_refused_with_both_numbers_before_it_is_tokenized(model: Model) -> None:
    text = "def f():\n    return 1\n" * 500_000
    started_at, peak = time.perf_counter(), peak_bytes()
    with pytest.raises(ContextLengthError) as error:
        model.generate(text)
    assert time.perf_counter() - started_at < SOON
    assert peak_bytes() - peak < MOST_GROWTH_BYTES
    assert f"{len(text):,} characters" in str(error.value)
    assert "128 tokens" in str(error.value)


def test_prompt_of_10_mb_is_cut_in_no_time(model: Model) -> None:
    text = "def f():\n    return 1\n" * 500_000
    settings: dict[str, Any] = {"max_new_tokens": 4, "prompt_overflow": "cut-left"}
    started_at, peak = time.perf_counter(), peak_bytes()
    cut = model.generate(text, **settings)
    assert time.perf_counter() - started_at < SOON
    assert peak_bytes() - peak < MOST_GROWTH_BYTES
    assert cut.prompt_tokens == 124
    assert cut.token_ids == model.generate(text[-110_000:], **settings).token_ids


BITS: tuple[str, ...] = (
    "def",
    "foo",
    " ",
    "  ",
    "\n",
    "\n\n",
    "    ",
    "\t",
    "\t\t",
    "'s",
    "'re",
    "'",
    "123",
    "x1",
    "é",
    "世界",
    "，",
)
BITS += (
    "<|endoftext|>",
    "<|endof",
    "text|>",
    "!!",
    "\u00a0",
    "\u2003",
    "\u180e",
    "a'll",
    " " * 40,
    "\r\n",
    "🌍",
    "\u0301",
)


@pytest.mark.parametrize("seed", range(40))
def test_text_that_is_cut_gives_the_ids_that_the_whole_text_gave(tokenizer: Tokenizer, model: Model, seed: int) -> None:
    generator = random.Random(seed)
    config, longest = model.runtime.config, tokenizer.longest_token
    params = GenerationParams(max_new_tokens=generator.randint(1, 127), prompt_overflow="cut-left")
    text = ""
    while len(text) <= config.context_length * longest:
        text += "".join(generator.choices(BITS, k=generator.randint(100, 2000)))
    (ids,) = encode_prompts([text], tokenizer, params, config)
    whole = tokenizer.encode(text)
    assert Request.of([ids], params, config) == Request.of([whole], params, config)
    assert len(ids) < len(whole)


def test_text_that_cannot_be_cut_is_refused_with_its_length(model: Model) -> None:
    with pytest.raises(ContextLengthError, match="1,000,000 characters"):
        model.generate("a" * 1_000_000, prompt_overflow="cut-left")


def test_text_as_long_as_a_context_may_hold_is_read(model: Model, tokenizer: Tokenizer) -> None:
    text = " " * (tokenizer.longest_token * 100)
    assert model.generate(text, max_new_tokens=1).prompt_tokens <= 128


@pytest.mark.parametrize("source", ["/dev/zero", "-"])
def test_endless_prompt_is_read_up_to_what_a_context_can_hold(tiny_bundle: Bundle, source: str) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    with Path("/dev/zero").open("rb") as zeros:
        result = run(tiny_bundle.path, "--prompt-file", source, stdin=zeros, preexec_fn=limit)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "more than 16,777,216 bytes" in result.stderr


def test_endless_pipe_is_read_up_to_what_a_context_can_hold(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def feed() -> None:
        try:
            with (tmp_path / "pipe").open("wb") as pipe:
                while True:
                    pipe.write(b"x" * 2**20)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=feed)
    writer.start()
    with pytest.raises(InvalidInputError, match="more than 16,777,216 bytes"):
        read_prompt(tmp_path / "pipe")
    writer.join(SOON)
    assert not writer.is_alive()


def test_pipe_that_ends_is_a_prompt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("def f():"))
    writer.start()
    assert read_prompt(tmp_path / "pipe") == "def f():"
    writer.join()


def test_closed_stdin_is_one_line(tiny_bundle: Bundle) -> None:
    result = run(tiny_bundle.path, "--prompt-file", "-", preexec_fn=lambda: os.close(0))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "stdin" in result.stderr


def test_memory_that_ends_while_generating_is_one_line(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("codegen_edge.generation.model.GenerationLoop", fail)
    done = run_main(monkeypatch, capsys, "generate", tiny_bundle.path, "--prompt", "x")
    assert done.code == 3
    assert done.error.startswith("error: there is not enough memory")


# Patterns that backtrack --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [HOSTILE_PATTERN, r"(a+)+$", r"a*a*a*a*a*a*a*a*a*b", r"((a?){40}){40}c"])
def test_truncate_before_that_backtracks_ends_with_its_name(pattern: str) -> None:
    started_at = time.perf_counter()
    with pytest.raises(InvalidInputError, match="truncate_before holds"):
        Cut(truncate_before=(pattern,)).find("a" * 400 + "b" * ("b" not in pattern or pattern == HOSTILE_PATTERN))
    assert time.perf_counter() - started_at < MOST_SECONDS + SOON


def test_search_goes_on_after_a_pattern_that_was_ended() -> None:
    with pytest.raises(InvalidInputError):
        Cut(truncate_before=(HOSTILE_PATTERN,)).find("a" * 40 + "b")
    assert Cut(truncate_before=("y.*2", "^#")).find("ab y 12\n# c") == 3
    assert Cut(truncate_before=("z+", "^#")).find("ab y 12\n# c") == 8
    assert Cut(truncate_before=("z+",)).find("é\n\udfff" + "zz") == 3


def test_codegens_own_rules_need_no_process() -> None:
    patterns = [pattern for preset in PRESETS.values() for pattern in preset.get("truncate_before", ())]
    assert patterns
    assert not any(map(may_backtrack, patterns))


@needs_proc
def test_ctrl_c_ends_truncate_before_that_backtracks(tiny_bundle: Bundle) -> None:
    # Any text of a few characters meets it; with more than 20 it takes hours.
    arguments = command(tiny_bundle.path, "--prompt", "def f():", "--truncate-before", r"(?s)(.|.|.)*\Z(?<!.)")
    arguments[-1] = "100"
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_until(lambda: any(cpu_seconds(child) > 0.2 for child in children_of(process.pid)))  # it searches
        started_at = time.perf_counter()
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=10)
        finally:
            process.kill()
        assert time.perf_counter() - started_at < MOST_SECONDS + SOON
    assert process.returncode in {2, 130}


# G08, G12, G15 ------------------------------------------------------------------------------------------------------


def runtime() -> ScriptedRuntime:
    return ScriptedRuntime(script_of_tokens([5, 6], 32, 1), vocab_size=32, eos_token_id=0)


NO_IDS: dict[str, Any] = {
    "True": [[1, True]],
    "numpy's True": [[1, np.True_]],
    "an array of booleans": [np.array([True, False])],
    "None as an id": [[1, None]],
    "None as a prompt": [None],
    "None as all prompts": None,
    "bytes": [b"abc"],
    "a bytearray": [bytearray(b"abc")],
    "bytes as all prompts": b"abc",
    "a text": ["abc"],
    "a text as all prompts": "abc",
    "a fraction": [[1.0]],
    "an array of fractions": [np.array([1.0])],
    "nested lists": [[[1, 2]]],
    "two dimensions": [np.array([[1, 2]])],
    "no dimension": [np.array(1)],
    "one number": [5],
    "a mapping": {"a": [1]},
    "a set": [{1, 2}],
    "an empty list": [[]],
    "no prompt": [],
}


@pytest.mark.parametrize("name", NO_IDS)
def test_G08_what_is_no_list_of_ids_is_refused_at_the_loop(name: str) -> None:
    with pytest.raises(InvalidInputError):
        GenerationLoop(runtime(), NO_IDS[name])
    with pytest.raises(InvalidInputError):
        RunningBatch(runtime()).add(NO_IDS[name], GenerationParams())


@pytest.mark.parametrize("prompt", [[1, 2], (1, 2), np.array([1, 2]), np.array([1, 2], np.int32), [np.int64(1)]])
def test_G08_any_sequence_of_integers_is_a_prompt(prompt: Any) -> None:
    assert len(list(GenerationLoop(runtime(), [prompt], GenerationParams(max_new_tokens=2)))) == 2


@pytest.mark.parametrize("name", ["stop", "truncate_before"])
def test_G12_number_and_length_of_stops_are_limited(name: str) -> None:
    limits: Any = {name: ["a" * 4096] * 128}
    GenerationParams(**limits)
    for values, expected in ((["a"] * 129, "at most 128 strings, got 129"), (["a" * 10**6], "at most 4096 characters")):
        with pytest.raises(InvalidInputError, match=f"{name} must hold .*{expected}"):
            GenerationParams(**{name: values})  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["", None, 1, b"x"])
def test_G12_stop_that_is_no_text_is_refused(stop: Any) -> None:
    with pytest.raises(InvalidInputError, match="stop"):
        GenerationParams(stop=[stop])


def test_G12_text_is_cut_at_the_earliest_of_many_stops() -> None:
    assert Cut([f"@{number}" for number in range(126)] + ["return"]).find("def f(): return @99") == 9


def test_G15_number_of_prompts_is_limited(model: Model) -> None:
    started_at = time.perf_counter()
    for prompts in (["x"] * 1025, ["x" * 1000] * 100_000):
        with pytest.raises(InvalidInputError, match=f"{len(prompts):,} prompts were given.* at most 1,024"):
            model.generate(prompts)
    with pytest.raises(InvalidInputError, match="several calls"):
        GenerationLoop(runtime(), [[1]] * 1025)
    with pytest.raises(InvalidInputError, match="several calls"):
        RunningBatch(runtime()).add([[1]] * 1025, GenerationParams())
    assert time.perf_counter() - started_at < SOON
    assert len(Request.of([[1]] * 1024, GenerationParams(), runtime().config).prompts) == 1024
