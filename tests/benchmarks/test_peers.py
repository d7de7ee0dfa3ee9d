from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Rounds, Spread
from benchmarks.peers.chart import roofline_chart
from benchmarks.peers.environments import NotInstalledError, python_of
from benchmarks.peers.measuring import COLD_START, LOAD, PEAK_RSS, Outcome, figures_of, first_token, measure, step
from benchmarks.peers.result import group_result
from benchmarks.peers.rounds import Row, SkippedError, run_group
from benchmarks.peers.run import kept_of
from benchmarks.peers.system import GROUPS, System
from benchmarks.peers.targets import Judged, judge_targets
from benchmarks.peers.tokens import Reference, check_tokens
from benchmarks.peers.workload import Workload, parse_all
from benchmarks.tables.peers import lines_of
from codegen_edge.evaluation.speed.surroundings import Load

SHORT = parse_all("4+3")
# Speaks the protocol with the standard library alone: it counts up from the last token of the prompt, plus SHIFT.
WORKER = """
import json, os, sys
script = json.loads(sys.argv[1])
print(json.dumps({"event": "started"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "open":
        if script.get("fails") == "open":
            print(json.dumps({"event": "error", "message": "RuntimeError: no such model"}), flush=True)
            continue
        print(json.dumps({"event": "opened", "open_s": 0.1, "versions": {"fake": "1.0"}}), flush=True)
        continue
    new = request["new_tokens"]
    if script.get("fails") == "dies" and new > 1:
        print("out of luck", file=sys.stderr)
        os._exit(3)
    if script.get("fails") == "hangs":
        sys.stdin.read()
    if script.get("fails") == "batch" and len(request["prompts"]) > 1:
        print(json.dumps({"event": "error", "message": "ValueError: one row only"}), flush=True)
        continue
    ids = [[row[-1] + 1 + at + script.get("shift", 0) for at in range(new)] for row in request["prompts"]]
    event = {"event": "generated", "token_ids": ids, "first_token_s": 0.2, "peak_rss_bytes": 1000}
    print(json.dumps(event | {"steps_s": [script.get("step_s", 0.01)] * (new - 1)}), flush=True)
"""


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """Every turn collects garbage; what other tests have imported needs not be looked through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def system(name: str, precision: str = "fp32", **fields: Any) -> System:
    return System(name=name, precision=precision, worker="none", artifact="none", **fields)


def reference(workload: Workload, margin: float = 0.5) -> Reference:
    new = range(1, workload.new_tokens + 1)
    rows = [[row[-1] + at for at in new] for row in workload.prompts()]
    return Reference(token_ids=rows, margins=[[margin] * workload.new_tokens for _ in rows])


def run_scripted(
    script: Mapping[str, Any], workloads: tuple[Workload, ...] = SHORT, limit_s: float = 20.0, **fields: Any
) -> Outcome:
    """Measure the scripted worker in a process of its own."""
    command = [sys.executable, "-S", "-c", WORKER, json.dumps(script)]
    return measure(system("fake", **fields), command, Path("model"), workloads, threads=1, limit_s=limit_s)


def outcome(step_s: float = 0.01, workloads: tuple[Workload, ...] = SHORT, shift: int = 0) -> Outcome:
    """What a worker would have given, without one."""
    figures: dict[str, float] = {LOAD: 0.4, COLD_START: 1.0, PEAK_RSS: 1000.0}
    token_ids = {}
    for each in workloads:
        figures |= {first_token(each): 10 * step_s, step(each): step_s}
        token_ids[each.name] = [[token + shift for token in row] for row in reference(each).token_ids]
    return Outcome(figures=figures, token_ids=token_ids, versions={"fake": "1.0"})


def group_of(
    systems: list[System],
    measure_one: Callable[[System], Outcome],
    workloads: tuple[Workload, ...] = SHORT,
    precision: str = "fp32",
    rounds: int = 2,
) -> dict[str, Any]:
    rows, found = run_group(systems, workloads, measure_one, rounds=rounds)
    return group_result(
        precision,
        workloads,
        rows,
        found,
        reference={each.name: reference(each) for each in workloads},
        load=Load(average_before=0.0, average_after=0.0, waiting=0.0),
        machine={"cores": 2},
        file_bytes={"none": 1000},
    )


def result_of(**groups: dict[str, Any]) -> dict[str, Any]:
    machine = {"cores": 2, "processor": "a processor", "features": {"avx2": True}}
    peers = {"fake": {"installs": [["fake"]], "uninstalls": [], "needs": "", "versions": {"fake": "1.0"}}}
    head = {"shape": "350M", "threads": 2, "rounds": 2, "is_quick": False, "machine": machine, "peers": peers}
    return {**head, "groups": groups}


def test_a_workload_reads_as_it_is_written() -> None:
    texts = ("128+64", "8x128+16", "128+32@1")
    assert [Workload.parse(text).name for text in texts] == list(texts)
    assert Workload.parse("8x128+16@2") == Workload(prompt_tokens=128, new_tokens=16, batch=8, neighbours=2)
    with pytest.raises(ValueError, match="a workload reads"):
        Workload.parse("128")


def test_prompts_are_the_same_everywhere_and_no_two_share_a_prefix() -> None:
    kinds = [(workload, kind) for workload in parse_all("16+4,16+4@1,2x16+4") for kind in ("timed", "warm", "cold")]
    firsts = [row[0] for workload, kind in kinds for row in workload.prompts(kind)]
    assert len(set(firsts)) == len(firsts)
    assert SHORT[0].prompts() == SHORT[0].prompts()


def test_systems_take_turns_and_ours_is_measured_twice_a_round() -> None:
    order: list[str] = []

    def measure_one(each: System) -> Outcome:
        order.append(each.name)
        return outcome()

    so_far: list[int] = []

    def on_rounds(rows: dict[str, Row], rounds: Rounds) -> None:
        assert list(rows) == list(rounds.times) == list("abc")
        so_far.append(len(rounds.times["a"]["load_s"]))

    run_group([system(name) for name in "abc"], SHORT, measure_one, rounds=3, on_rounds=on_rounds)
    assert order == list("abca") * 3
    assert so_far == [2, 3]  # a run that ends before its time has left what it measured


def test_what_is_not_measured_again_stays_of_an_earlier_run() -> None:
    earlier = result_of(int8={"rows": {}}) | {"exports": {}}
    assert kept_of(earlier, result_of()) == {"groups": {"int8": {"rows": {}}}, "parts": {"exports": {}}}
    assert kept_of({}, result_of()) == {}
    assert kept_of(earlier | {"rounds": 5}, result_of()) == {}
    other = {**earlier["machine"], "processor": "another processor"}
    assert kept_of(earlier | {"machine": other}, result_of()) == {}


def test_a_scripted_worker_is_measured() -> None:
    found = run_scripted({"step_s": 0.02})
    assert found.errors == {}
    assert found.figures.keys() == set(figures_of(SHORT))
    assert found.figures[step(SHORT[0])] == pytest.approx(0.02)
    assert found.figures[PEAK_RSS] == 1000
    assert 0 < found.figures[LOAD] <= found.figures[COLD_START]
    assert found.token_ids[SHORT[0].name] == reference(SHORT[0]).token_ids


@pytest.mark.parametrize(
    ("fails", "message"),
    [("open", "RuntimeError: no such model"), ("dies", "it ended with exit code 3: out of luck")],
)
def test_a_worker_that_errs_or_dies_says_why(fails: str, message: str) -> None:
    found = run_scripted({"fails": fails})
    assert found.errors == {"": message}
    assert step(SHORT[0]) not in found.figures


def test_a_worker_that_cannot_be_started_says_why() -> None:
    found = measure(system("fake"), ["/no/such/python"], Path("model"), SHORT, threads=1, limit_s=1)
    assert found.errors[""].startswith("it did not start: ")


def test_a_worker_that_hangs_is_ended() -> None:
    assert run_scripted({"fails": "hangs"}, limit_s=0.5).errors == {"": "it did not answer within 0 s"}


def test_a_workload_that_fails_leaves_the_others() -> None:
    workloads = parse_all("2x4+3,4+3")
    found = run_scripted({"fails": "batch"}, workloads)
    # The cold start has one row in a run whose first workload has one; here it fails with the batch.
    assert "ValueError: one row only" in found.errors.values()
    found = run_scripted({"fails": "batch"}, workloads[::-1])
    assert found.errors == {"2x4+3": "ValueError: one row only"}
    assert step(workloads[1]) in found.figures


def test_neighbours_are_gone_afterwards() -> None:
    (busy,) = parse_all("4+3@1")
    assert step(busy) in run_scripted({}, (busy,)).figures


def test_what_fails_is_a_row_and_stops_nothing() -> None:
    tries: list[str] = []

    def measure_one(each: System) -> Outcome:
        tries.append(each.name)
        if each.name == "absent":
            raise SkippedError("absent is not installed: run `make peers`")
        return Outcome(errors={"": "it ended with exit code 3"}) if each.name == "dying" else outcome()

    group = group_of([system("ours", role="ours"), *map(system, ("absent", "dying", "fine"))], measure_one, rounds=3)
    rows = group["rows"]
    assert rows["absent"]["skipped"] == "absent is not installed: run `make peers`"
    assert rows["dying"]["errors"] == {"": "it ended with exit code 3"}
    assert rows["absent"]["times"] == rows["dying"]["times"] == {}
    assert len(rows["fine"]["times"][step(SHORT[0])]) == 3
    assert tries.count("dying") == tries.count("absent") == 1
    shown = "\n".join(lines_of(result_of(fp32=group)))
    assert "absent (absent is not installed: run `make peers`); dying (it ended with exit code 3)" in shown
    assert "| fine |" in shown


def test_a_figure_that_one_round_lacks_is_left_out_and_its_reason_stays() -> None:
    rounds = iter((outcome(), Outcome(errors={"": "it ended by signal 9"}), outcome()))

    def measure_one(each: System) -> Outcome:
        return next(rounds) if each.name == "peer" else outcome()

    group = group_of([system("ours", role="ours"), system("peer")], measure_one, rounds=3)
    assert group["rows"]["peer"]["times"] == {}
    assert group["rows"]["peer"]["errors"] == {"": "it ended by signal 9"}


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError, match="openvino is not installed: run `make peers`"):
        python_of("openvino", tmp_path)
    (tmp_path / "openvino.failed").write_text("pip ended with 1")
    with pytest.raises(NotInstalledError, match="openvino is not installed: pip ended with 1"):
        python_of("openvino", tmp_path)


def test_wrong_tokens_void_a_row_and_a_void_row_is_no_peer() -> None:
    def measure_one(each: System) -> Outcome:
        return outcome(0.001, PROMPT, shift=1) if each.name == "wrong" else outcome(workloads=PROMPT)

    group = group_of([system("codegen-edge fp32", role="ours"), system("wrong"), system("right")], measure_one, PROMPT)
    assert group["rows"]["wrong"]["void"].startswith("128+3: token 0 of row 0 is")
    assert group["rows"]["right"]["void"] == ""
    (decode,) = (each for each in judge_targets(result_of(fp32=group)) if each.what == "decode fp32")
    assert decode.against == "right"
    shown = "\n".join(lines_of(result_of(fp32=group)))
    assert "| wrong |" not in shown
    assert "wrong (void, 128+3: token 0" in shown


def test_a_near_tie_voids_nothing_and_rounded_weights_are_only_counted() -> None:
    right = reference(SHORT[0])
    other = [[right.token_ids[0][0], 7, 8]]
    wrong = check_tokens("fp32", [other], right)
    assert wrong is not None
    assert wrong.wrong.startswith("token 1 of row 0 is 7")
    near = check_tokens("fp32", [other, other], reference(SHORT[0], margin=1e-5))
    assert near is not None
    assert (near.wrong, near.near_ties, near.equal) == ("", 1, 1.0)
    rounded = check_tokens("int8", [other, right.token_ids], right)
    assert rounded is not None
    assert (rounded.wrong, rounded.is_deterministic) == ("", False)
    assert rounded.equal == pytest.approx(4 / 6, abs=1e-3)
    short = check_tokens("int4", [[[1]]], right)
    assert short is not None
    assert short.wrong == "1 tokens, 3 were wanted"


PROMPT = parse_all("128+3")
INT8 = parse_all("128+3,128+3@1")


def judged(group: dict[str, Any], what: str, ours: str = "codegen-edge int8", at: int = 0) -> Judged:
    return [each for each in judge_targets(result_of(int8=group)) if (each.what, each.ours) == (what, ours)][at]


def int8_group(steps: Mapping[str, float], again: float = 1.0) -> dict[str, Any]:
    """Systems by name with their step; ours takes `again` times as long when it is measured again."""
    turns: list[str] = []
    peers = {"codegen-edge int8": "", "CTranslate2 int8": "ctranslate2", "onnxruntime on our int8": "onnxruntime"}

    def measure_one(each: System) -> Outcome:
        is_again = turns[-1:] == [list(steps)[-1]] and each.role == "ours"
        turns.append(each.name)
        return outcome(steps[each.name] * (again if is_again else 1.0), INT8)

    systems = [
        system(
            name,
            "int8",
            peer=peers[name],
            role="ours" if name.startswith("codegen") else "floor" if "on our" in name else "peer",
        )
        for name in steps
    ]
    return group_of(systems, measure_one, INT8, "int8", rounds=3)


def test_targets_are_reached_or_missed_by_the_ratio_over_the_best_peer() -> None:
    fast = int8_group({"codegen-edge int8": 0.01, "onnxruntime on our int8": 0.005, "CTranslate2 int8": 0.03})
    decode = judged(fast, "decode int8")
    assert (decode.verdict, decode.against, decode.ratio) == ("reached", "CTranslate2 int8", Spread(3.0, 3.0, 3.0))
    slow = int8_group({"codegen-edge int8": 0.02, "onnxruntime on our int8": 0.005, "CTranslate2 int8": 0.03})
    assert judged(slow, "decode int8").verdict == "missed"
    assert judged(slow, "decode int8", at=1).why == "no peer of the class has this figure"
    assert judged(slow, "decode int8, 8 rows").verdict == "not measured"
    assert judged(slow, "decode int8, one busy neighbour", at=1).against == "itself when quiet"
    assert judged(slow, "load, seconds, int8").verdict == "reached"
    assert judged(slow, "peak memory over the file's bytes, int8").ratio == Spread(1.0, 1.0, 1.0)
    shown = "\n".join(lines_of(result_of(int8=slow)))
    assert "| decode int8 | codegen-edge int8 | CTranslate2 int8 | at least 2 | 1.50 (1.50–1.50) | missed |" in shown


def test_a_machine_too_noisy_for_a_verdict_says_so() -> None:
    why = "our own system differed from itself by 50%"
    sure = int8_group({"codegen-edge int8": 0.01, "CTranslate2 int8": 0.03}, again=2.0)
    decode = judged(sure, "decode int8")
    assert (decode.verdict, decode.why) == ("reached", why)  # every round says so
    assert f"reached in every round, though {why}" in "\n".join(lines_of(result_of(int8=sure)))
    noisy = int8_group({"codegen-edge int8": 0.01, "CTranslate2 int8": 0.03}, again=2.0)
    workload = next(each for each in INT8 if each.prompt_tokens == 128 and each.batch == 1 and not each.neighbours)
    noisy["rows"]["CTranslate2 int8"]["times"][step(workload)][0] = 0.015
    decode = judged(noisy, "decode int8")
    assert (decode.verdict, decode.why) == ("too noisy", why)
    busy = group_result(
        "fp32",
        SHORT,
        *run_group([system("ours")], SHORT, lambda _: outcome(), rounds=2),
        reference={},
        load=Load(average_before=3.0, average_after=3.0, waiting=0.5),
        machine={"cores": 2},
        file_bytes={},
    )
    assert busy["surroundings"] == [
        "load average 3.0 on 2 cores before the run",
        "some program waited for a processor in 50% of the time",
    ]


def test_without_ours_there_is_no_verdict() -> None:
    def measure_one(each: System) -> Outcome:
        return Outcome(errors={"": "broken"}) if each.role == "ours" else outcome(workloads=PROMPT)

    group = group_of([system("codegen-edge fp32", role="ours"), system("peer")], measure_one, PROMPT)
    (decode,) = (each for each in judge_targets(result_of(fp32=group)) if each.what == "decode fp32")
    assert decode.verdict == "not measured"


def test_every_group_begins_with_ours_and_names_are_unique() -> None:
    for systems in GROUPS.values():
        assert systems[0].role == "ours"
        assert len({each.name for each in systems}) == len(systems)


def test_rows_keep_the_versions_of_what_ran() -> None:
    rows, _ = run_group([system("ours")], SHORT, lambda _: outcome(), rounds=2)
    assert isinstance(rows["ours"], Row)
    assert rows["ours"].versions == {"fake": "1.0"}
    assert not any(math.isnan(value) for value in outcome().figures.values())


def test_the_nearer_limit_is_the_share_of_the_roofline_and_the_picture_shows_both() -> None:
    def spread(value: float) -> dict[str, float]:
        return {"median": value, "low": value, "high": value}

    amounts = ("decode_bytes", "decode_multiplications", "prefill_bytes", "prefill_multiplications")
    shares = {"decode_of_memory": 0.6, "decode_of_products": 0.2, "prefill_of_memory": 0.1}
    shares |= {"prefill_of_products": 0.9, "prefill_of_fastest": 0.3}
    roofline = {**dict.fromkeys(amounts, 1.0), **{name: spread(share) for name, share in shares.items()}}
    rates = {"decode_tokens_per_second": spread(30.0), "prefill_tokens_per_second": spread(300.0)}
    result = result_of() | {"roofline": {"int8": {"roofline": {**roofline, "is_cached": False}, **rates}}}
    found = next(each for each in judge_targets(result) if each.what == "decode int8, share of the roofline")
    assert (found.ratio, found.verdict) == (Spread(0.6, 0.6, 0.6), "missed")
    picture = roofline_chart(result)
    assert "60% decode: memory" in picture
    assert "90% prefill: products" in picture
