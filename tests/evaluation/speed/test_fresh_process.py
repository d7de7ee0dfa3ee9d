from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, BundleError, InvalidInputError
from codegen_edge.evaluation.speed import fresh_process
from codegen_edge.evaluation.speed.fresh_process import measure_once, task_of
from codegen_edge.evaluation.speed.settings import SpeedSettings
from tests.processes import children_of, is_running, needs_proc, wait_until

SMALL = SpeedSettings(prompt_tokens=16, new_tokens=8, rounds=2, threads=1)


def test_a_process_is_fresh_and_gone_afterwards(tiny_bundle: Bundle) -> None:
    task = task_of(tiny_bundle, SMALL, None)
    first, second = measure_once(task), measure_once(task)
    assert len({first.pid, second.pid, os.getpid()}) == 3
    assert not any(is_running(pid) for pid in (first.pid, second.pid))


def test_nothing_heavy_is_loaded_when_a_process_starts(tiny_bundle: Bundle) -> None:
    task = json.dumps(task_of(tiny_bundle, SMALL, None))
    command = [*fresh_process.PROGRAM, task]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        process.kill()
    assert started == {"event": "started", "pid": process.pid, "heavy": []}


def test_a_measurement_holds_all_steps_and_the_memory_of_the_process(tiny_bundle: Bundle) -> None:
    found = measure_once(task_of(tiny_bundle, SMALL, None))
    assert len(found.steps_s) == SMALL.new_tokens - 1
    assert found.prefill_s <= found.first_token_s
    assert found.import_s + found.open_s < found.cold_start_s
    assert found.limits is None
    if sys.platform == "linux":
        assert 20e6 < found.peak_rss_bytes < 2e9
    assert set(found.figures()) == {
        *("load_s", "cold_start_s", "first_token_s", "prefill_s", "step_s", "peak_rss_bytes")
    }


def test_rows_are_decoded_together(tiny_bundle: Bundle) -> None:
    settings = SpeedSettings(prompt_tokens=16, new_tokens=8, batch=3, threads=1, exact_steps=True)
    assert len(measure_once(task_of(tiny_bundle, settings, None)).steps_s) == 7


def test_a_context_that_is_full_to_the_last_token_is_measured(tiny_bundle: Bundle) -> None:
    settings = SpeedSettings(prompt_tokens=126, new_tokens=2, threads=1)
    assert len(measure_once(task_of(tiny_bundle, settings, None)).steps_s) == 1


def test_an_error_of_the_process_is_raised_as_what_it_is(static_bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="runtime cpu needs target ort") as caught:
        measure_once(task_of(static_bundle, SMALL, None))
    assert caught.value.hint
    many = SpeedSettings(prompt_tokens=16, new_tokens=8, threads=100_000)
    with pytest.raises(InvalidInputError, match=r"threads must be an integer in 1…\d+ on this machine, got 100000"):
        measure_once(task_of(tiny_bundle, many, None))


def test_a_process_that_dies_is_reported_with_its_last_words(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(tiny_bundle, SMALL, None)
    dying = "import sys; sys.exit('out of luck')"
    monkeypatch.setattr(fresh_process, "PROGRAM", (sys.executable, "-c", dying))
    with pytest.raises(BackendError, match="ended with exit code 1: out of luck"):
        measure_once(task)
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(fresh_process, "PROGRAM", (sys.executable, "-c", killed))
    with pytest.raises(BackendError, match="ended by signal 9"):
        measure_once(task)


@needs_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupt_leaves_no_process(tiny_bundle: Bundle, number: signal.Signals, code: int) -> None:
    # A suite that runs in the background ignores SIGINT, and so would what it starts.
    code_of_it = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from codegen_edge.cli import main; main()"
    )
    command = [sys.executable, "-c", code_of_it, "bench", str(tiny_bundle.path)]
    options = ["--prompt-tokens", "16", "--new-tokens", "64", "--rounds", "500", "--threads", "1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: children_of(process.pid))
        time.sleep(0.3)  # somewhere in its work
        wait_until(lambda: children_of(process.pid))
        children = children_of(process.pid)
        process.send_signal(number)
        assert process.wait(60) == code
        wait_until(lambda: not any(map(is_running, children)), 20)
