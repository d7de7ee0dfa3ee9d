"""The workflow with processes that are made up: what it does with what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.evaluation.report.labels import text_width
from codegen_edge.evaluation.speed.chart import speed_chart
from codegen_edge.evaluation.speed.counting import count_work
from codegen_edge.evaluation.speed.measurement import MeasuredLimits, Measurement
from codegen_edge.evaluation.speed.results import SpeedResult
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.timing import Spread
from codegen_edge.evaluation.speed.verdict import judge
from codegen_edge.workflows import bench, benchmarking
from tests.evaluation.speed.conftest import MakeMeasurement

SETTINGS = SpeedSettings(prompt_tokens=32, new_tokens=16, batch=2, rounds=3)
SVG = "{http://www.w3.org/2000/svg}"

Script = dict[str, list[dict[str, Any]]]
Run = Callable[..., tuple[SpeedResult, list[tuple[str, bool]]]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, bundles_by_precision: dict[str, Bundle], make_measurement: MakeMeasurement
) -> Run:
    """Run the workflow; a process answers with the next of its bundle's figures. Gives the order of processes, too."""

    def run_scripted(script: Script, settings: SpeedSettings = SETTINGS) -> tuple[SpeedResult, list[tuple[str, bool]]]:
        order: list[tuple[str, bool]] = []
        labels = {str(bundles_by_precision[name].path): name for name in script}
        answers: dict[str, Iterator[dict[str, Any]]] = {name: iter(figures) for name, figures in script.items()}

        def measure(task: dict[str, Any]) -> Measurement:
            name = labels[task["bundle"]]
            is_counted = task["kinds"] is not None
            order.append((name, is_counted))
            if not is_counted:
                return make_measurement()
            limits = MeasuredLimits(
                read_bytes={"numpy": 1e9, "onnxruntime": 2e9},
                multiplications={kind_label(kind): 1e9 for kind in task["kinds"]},
                buffer_bytes=2**28,
            )
            return make_measurement(**{"limits": limits, **next(answers[name])})

        monkeypatch.setattr(benchmarking, "measure_once", measure)
        return bench([bundles_by_precision[name].path for name in script], settings), order

    return run_scripted


def kind_label(kind: dict[str, Any]) -> str:
    from codegen_edge.evaluation.speed.kinds import ProductKind

    return ProductKind(**kind).label


def steps(*seconds: float, **others: Any) -> list[dict[str, Any]]:
    return [{"step_s": each, **others} for each in seconds]


# The first bundle is measured twice per round: its own time, then its second one.
QUIET: Script = {
    "fp32": steps(0.040, 0.0401, 0.040, 0.0404, 0.040, 0.0402, peak_rss_bytes=1_400_000_000, prefill_s=0.5),
    "int8": steps(0.020, 0.0201, 0.0199, peak_rss_bytes=470_000_000, prefill_s=0.7),
    "int4": steps(0.020, 0.0199, 0.0201, peak_rss_bytes=350_000_000, prefill_s=0.7),
}


@pytest.mark.long
def test_bundles_take_turns_after_a_rehearsal(run: Run) -> None:
    result, order = run(QUIET)
    assert order[:3] == [("fp32", False), ("int8", False), ("int4", False)]
    assert order[3:] == [(name, True) for name in ("fp32", "int8", "int4", "fp32")] * 3
    tiny = result.bundles[0].label
    assert [each.step_s for each in result.bundles[0].rounds] == pytest.approx([0.040] * 3)
    assert [each.step_s for each in result.again] == pytest.approx([0.0401, 0.0404, 0.0402])
    assert result.noise["step_s"] == pytest.approx(1 - 0.040 / 0.0404)
    assert result.rounds.ratio("int8", "step_s", base=tiny).median == pytest.approx(2.0, rel=0.01)


def test_a_single_bundle_is_measured_once_per_round(run: Run) -> None:
    result, order = run({"int8": QUIET["int8"]})
    assert order == [("int8", False)] + [("int8", True)] * 3
    assert (result.again, result.noise) == ((), {})
    with pytest.raises(InvalidInputError, match="at least two bundles"):
        judge(result)


def test_figures_are_of_all_rows(run: Run) -> None:
    (speed,) = run({"int8": steps(0.010, 0.020, 0.040, prefill_s=0.5)})[0].bundles
    assert speed.decode_tokens_per_second.to_dict() == {"median": 100, "low": 50, "high": 200}
    assert speed.prefill_tokens_per_second == Spread(128, 128, 128)
    assert speed.load_s.median == pytest.approx(1.3)
    assert speed.step_ms == pytest.approx({"p50": 20, "p90": 40, "p99": 40})


def test_shares_are_of_the_best_limit_of_the_run(run: Run, bundles_by_precision: dict[str, Bundle]) -> None:
    result, _ = run({"int8": steps(0.010, 0.020, 0.040, prefill_s=0.5)})
    work = count_work(bundles_by_precision["int8"])
    line = result.bundles[0].roofline
    assert line is not None
    assert line.decode_bytes == work.decode_bytes(2, 32, 16)
    assert line.decode_of_memory.median == pytest.approx(line.decode_bytes / 2e9 / 0.020)
    assert line.decode_of_memory.high == pytest.approx(line.decode_bytes / 2e9 / 0.010)
    assert line.prefill_of_products.median == pytest.approx(line.prefill_multiplications / 1e9 / 0.5)
    assert line.prefill_of_fastest == line.prefill_of_products  # all kinds are equally fast here


def test_what_differs_decides_decode_first_then_memory(run: Run) -> None:
    verdict = judge(run(QUIET)[0])
    assert verdict.take == "int4"
    assert verdict.why == "fastest decode; of those alike, least memory"
    decode = {(each.best, each.other): each.is_different for each in verdict.comparisons if each.figure == "decode"}
    assert len(decode) == 2
    assert sum(decode.values()) == 1  # fp32 is slower, int8 and int4 are alike
    prefill = [each for each in verdict.comparisons if each.figure == "prefill"]
    assert {each.best for each in prefill} == {"tiny"}


def test_bundles_that_do_not_differ_are_called_so(run: Run) -> None:
    same = steps(*([0.02] * 6))
    verdict = judge(run({"int8": same, "int4": same[:3]})[0])
    assert verdict.take == "int8"
    assert verdict.why == "no difference in decode or prefill or memory"
    assert not any(each.is_different for each in verdict.comparisons)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (steps(0.02, 0.03, 0.02, 0.02, 0.02, 0.02), "int8 differed from itself by 33%"),
        (steps(0.02, 0.02, 0.04, 0.04, 0.02, 0.02), "slowest round of int8 took 2.0 times as long"),
    ],
)
def test_a_machine_too_noisy_gets_no_verdict(run: Run, first: list[dict[str, Any]], words: str) -> None:
    verdict = judge(run({"int8": first, "int4": steps(0.01, 0.01, 0.01)})[0])
    assert verdict.take is None
    assert words in verdict.why
    assert words in verdict.too_noisy["decode"]


def test_a_busy_machine_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.evaluation.speed.surroundings.load_average", lambda: 1000.0)
    waited = iter([0, 10**12])
    monkeypatch.setattr("codegen_edge.evaluation.speed.surroundings.waited_us", lambda: next(waited))
    load, waiting = judge(run(QUIET)[0]).surroundings
    assert load.startswith("load average 1000.0 on ")
    assert waiting == "some program waited for a processor in 100% of the time"


def test_json_holds_machine_settings_and_every_round(run: Run) -> None:
    result, _ = run(QUIET)
    fields = json.loads(json.dumps(result.to_dict()))
    assert list(fields) == [
        *("format_version", "settings", "machine", "load", "limits", "no_roofline", "bundles", "again", "noise")
    ]
    assert {"processor", "features", "cores", "threads", "packages"} <= fields["machine"].keys()
    assert fields["settings"]["batch"] == 2
    assert [len(each["rounds"]) for each in fields["bundles"]] == [3, 3, 3]
    assert len(fields["again"]) == 3
    assert fields["bundles"][1]["rounds"][0]["steps_s"] == [0.02] * 10
    assert fields["bundles"][1]["rounds"][0]["limits"]["read_bytes"] == {"numpy": 1e9, "onnxruntime": 2e9}
    assert fields["limits"]["bandwidth"] == 2e9
    assert json.loads(json.dumps(judge(result).to_dict()))["take"] == "int4"


def test_other_runtimes_have_no_limits_and_say_why(
    static_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, make_measurement: MakeMeasurement
) -> None:
    monkeypatch.setattr(benchmarking, "measure_once", lambda task: make_measurement())
    result = bench(static_bundle.path, SpeedSettings(prompt_tokens=16, new_tokens=8, runtime="static-cpu"))
    assert result.limits is None
    assert result.bundles[0].roofline is None
    assert "cpu runtime only, not of static-cpu" in result.no_roofline
    assert speed_chart(result)


def test_bad_input_is_refused_before_a_process_starts(
    tiny_bundle: Bundle, feature_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarking, "measure_once", lambda task: pytest.fail("a process was started"))
    small = SpeedSettings(prompt_tokens=16, new_tokens=8)
    with pytest.raises(InvalidInputError, match="no bundle"):
        bench([], small)
    with pytest.raises(InvalidInputError, match="given twice"):
        bench([tiny_bundle.path, tiny_bundle.path / "." / ""], small)
    with pytest.raises(InvalidInputError, match="no runtime"):
        bench(tiny_bundle.path, SpeedSettings(runtime="abacus"))
    with pytest.raises(InvalidInputError, match="holds 128"):
        bench(tiny_bundle.path, SpeedSettings(prompt_tokens=120, new_tokens=9))
    with pytest.raises(BundleError, match="feature-extraction"):
        bench(feature_bundle.path, small)
    with pytest.raises(BundleError, match="not a folder"):
        bench(tmp_path / "nothing", small)


def test_a_bundle_that_does_not_fit_the_runtime_is_refused_in_the_rehearsal(
    static_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    done: list[int] = []
    small = SpeedSettings(prompt_tokens=16, new_tokens=8, threads=1)
    with pytest.raises(BundleError, match="runtime cpu needs target ort"):
        bench([static_bundle.path, tiny_bundle.path], small, on_stage=lambda stage, count, total: done.append(count))
    assert done == [0]


def test_folders_of_one_name_are_told_apart_by_their_paths(
    run: Run, bundles_by_precision: dict[str, Bundle], tmp_path: Path
) -> None:
    paths = [tmp_path / "a" / "same", tmp_path / "b" / "same", tmp_path / "other"]
    labels = [label for label, _ in benchmarking._labelled(paths)]
    assert labels == [str(paths[0]), str(paths[1]), "other"]


def test_the_chart_is_a_picture_by_itself(run: Run) -> None:
    text = speed_chart(run(QUIET)[0])
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "prefers-color-scheme:dark" in text
    assert not [word for word in ("http://", "https://", "url(", "@import") if word in text.replace(SVG[1:-1], "")]
    shown = [element.text for element in root.iter(f"{SVG}text")]
    assert {"tiny", "int8", "int4"} <= set(shown)
    width = float(root.attrib["width"])
    for element in root.iter(f"{SVG}text"):
        if element.get("text-anchor") is None:
            assert float(element.attrib["x"]) + 0.9 * text_width(element.text or "") <= width
