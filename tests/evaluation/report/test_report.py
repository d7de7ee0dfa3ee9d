"""The page and the Markdown, without a browser: complete, escaped, bounded, and readable in both schemes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from codegen_edge.cli.evaluate.report import report as command
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation import report
from codegen_edge.evaluation.report.folders import read_runs
from codegen_edge.evaluation.report.payload import payload
from codegen_edge.evaluation.report.results import ordered_kinds
from codegen_edge.evaluation.report.writing import write_report
from tests.evaluation.report.synthetic import make_folder

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ' \" & ]]> <!-- \u2028 \x00 \ud800"
VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Checker(HTMLParser):
    """Elements that are opened and closed in order, their attributes, and the text of scripts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(document)
        self.close()
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or "svg" in self.opened
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] in self.contents:
            self.contents[self.opened[-1]].append(data)


def written(tmp_path: Path, *folders: Path) -> str:
    write_report(folders, tmp_path / "report.html", tmp_path / "report.md")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def data_of(document: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Checker(document).contents["script"][0])
    return data


def several(tmp_path: Path) -> list[Path]:
    return [
        make_folder(tmp_path / "a", num_samples=4, ks=(1, 2), seed=1),
        make_folder(tmp_path / "b", precision="int8", num_samples=4, ks=(1, 2), seed=2, bundle_bytes=90_000_000),
        make_folder(tmp_path / "c", precision="int4", num_problems=164, finished_problems=40, seed=3),
        make_folder(tmp_path / "d", task="mtpb", num_turns=3, seed=4, about={"sandbox": "process"}),
    ]


def test_the_public_names_are_these() -> None:
    assert report.__all__ == ["Comparison", "Report", "Run", "write_report"]


def test_every_part_stands_on_the_page(tmp_path: Path) -> None:
    document = written(tmp_path, *several(tmp_path))
    ids = [attributes["id"] for _, attributes in Checker(document).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for part in ("runs", "scores", "comparisons", "kinds", "grid", "completions", "settings"):
        assert part in ids
    for text in ("fp32 cpu", "int8 cpu", "90.0 MB", "40.0", "AMD EPYC", "pass@2", "programs ran without bubblewrap"):
        assert text in document
    assert "unfinished: 40 of 164 problems" in document
    assert "the first passing and the first failing sample are kept" in document


def test_scores_carry_their_intervals(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=20)
    document = written(tmp_path, folder)
    score = json.loads((folder / "results.json").read_text())["scores"]["pass@1"]
    low, high = (f"{100 * bound:.1f}" for bound in score["interval"])
    assert f"<b>{score['value']:.1%}</b>" in document
    assert f"[{low}, {high}]" in document
    assert f"{score['value']:.1%} \\[{low}, {high}\\]" in (tmp_path / "report.md").read_text()


def test_a_problem_alone_has_no_interval(tmp_path: Path) -> None:
    document = written(tmp_path, make_folder(tmp_path / "a", num_problems=1, chances=1.0))
    assert "<b>100.0%</b>" in document
    assert 'class="interval' not in document


def test_every_drawing_is_well_formed_and_described(tmp_path: Path) -> None:
    document = written(tmp_path, *several(tmp_path))
    drawings = [ET.fromstring(text) for text in re.findall(r"<svg .*?</svg>", document, re.DOTALL)]
    described = [drawing for drawing in drawings if drawing.get("role") == "img"]
    assert len(described) == 2 * 2 * 3 + 2  # two sizes of screen, two costs, three scores; and the bars
    for drawing in described:
        title, description = list(drawing)[:2]
        assert drawing.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert title.text
        assert description.text
    assert document.count("Data of this chart") == 7


def test_nothing_is_loaded_and_only_our_script_runs(tmp_path: Path) -> None:
    document = written(tmp_path, *several(tmp_path))
    checker = Checker(document)
    policy = next(a["content"] for tag, a in checker.elements if tag == "meta" and "http-equiv" in a) or ""
    for text, directive in ((checker.contents["style"][0], "style-src"), (checker.contents["script"][1], "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert [tag for tag, _ in checker.elements].count("script") == 2
    for tag, attributes in checker.elements:
        assert not any(name.startswith("on") or name in {"style", "src", "srcset", "action"} for name in attributes)
        if "href" in attributes:
            assert re.match(r"#\w+$|data:image/svg", attributes["href"] or ""), (tag, attributes)
    markup = document.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|@import|url\((?!#)", markup)


def test_the_script_writes_no_markup() -> None:
    script = files("codegen_edge.evaluation.report").joinpath("script.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|</", script)


def test_what_samples_and_folders_say_stays_text(tmp_path: Path) -> None:
    hostile = make_folder(
        tmp_path / "a",
        completion=HOSTILE,
        message=HOSTILE,
        precision=HOSTILE,
        num_problems=4,
        chances=[0.0, 1.0, 0.0, 1.0],
        about={"bundle": HOSTILE, "processor": HOSTILE, "sandbox": HOSTILE, HOSTILE: HOSTILE},
        configuration={HOSTILE: [HOSTILE]},
    )
    for name in ("samples.jsonl", "verdicts.jsonl", "problems.jsonl", "results.json"):
        path = hostile / name
        path.write_text(path.read_text().replace("HumanEval/", json.dumps(HOSTILE)[1:-1]))
    other = make_folder(tmp_path / "b", precision="int8", task="<b>task</b>", num_problems=3)
    document = written(tmp_path, hostile, other)
    checker = Checker(document)
    assert [tag for tag, _ in checker.elements].count("script") == 2
    assert not [tag for tag, _ in checker.elements if tag in {"img", "iframe", "object"}]
    assert not any(name.startswith("on") for _, attributes in checker.elements for name in attributes)
    data = data_of(document)
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert shown in data["texts"]
    problem = next(problem for problem in data["problems"] if "0" in problem["samples"])
    assert problem["id"] == f"{shown}0"
    assert problem["samples"]["0"][0]["message"] == shown
    for drawing in re.findall(r"<svg .*?</svg>", document, re.DOTALL):
        ET.fromstring(drawing)
    markdown = (tmp_path / "report.md").read_text()
    assert not re.search(r"(?<!\\)<", markdown)
    head, _, *rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {head.count("|")}


def test_a_huge_run_stays_below_15_mb(tmp_path: Path) -> None:
    """Four runs of 164 problems; every one has both kinds of samples, long, different and full of markup."""
    folders = []
    for number, precision in enumerate(("fp32", "int8", "int4", "int8-dynamic")):
        folder = make_folder(tmp_path / precision, precision=precision, num_problems=164, num_samples=2, seed=number)
        lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        for at, line in enumerate(lines):
            line["completions"] = [f"{number} {at} " + "<é>\n" * 3000]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder)
    result = write_report(folders, tmp_path / "report.html")
    assert 5_000_000 < result.html_bytes < 15_000_000
    document = (tmp_path / "report.html").read_text(encoding="utf-8")
    longest = int(re.search(r"Texts are cut after ([\d,]+) characters", document)[1].replace(",", ""))  # type: ignore[index]
    texts = data_of(document)["texts"]
    assert all(len(text) < longest + 80 for text in texts)
    assert any(text.endswith("more characters are not in this report") for text in texts)


def test_the_number_of_samples_does_not_grow_the_page(tmp_path: Path) -> None:
    few = write_report([make_folder(tmp_path / "a", num_samples=10)], tmp_path / "few.html")
    many = write_report([make_folder(tmp_path / "b", num_samples=400)], tmp_path / "many.html")
    assert many.html_bytes < 1.1 * few.html_bytes


def test_even_the_shortest_texts_stay_within_the_bound(tmp_path: Path) -> None:
    runs = read_runs([make_folder(tmp_path / "a", num_problems=50, num_samples=6)])
    whole = payload(runs)
    assert whole.longest_text is None
    small = payload(runs, most_bytes=len(whole.json.encode()) * 2 // 3)
    assert len(small.json.encode()) <= len(whole.json.encode()) * 2 // 3
    assert "(not in this report, which is bounded)" in json.loads(small.json)["texts"]


def test_equal_texts_are_stored_once(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path / name, precision=name, completion="return 1") for name in ("fp32", "int8")]
    assert data_of(written(tmp_path, *folders))["texts"].count("return 1") == 1


def test_the_same_folders_give_the_same_page(tmp_path: Path) -> None:
    folders = several(tmp_path)
    assert written(tmp_path, *folders) == written(tmp_path, *folders)


def test_the_markdown_is_a_table_and_sentences(tmp_path: Path) -> None:
    folders = [
        make_folder(tmp_path / "a", num_problems=40, chances=[1.0] * 30 + [0.0] * 10),
        make_folder(tmp_path / "b", precision="int4", num_problems=40, chances=0.0, tokens_per_second=None),
    ]
    written(tmp_path, *folders)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("| Task | Bundle | Precision | Runtime | pass@1 | Samples | Tokens/s |")
    assert lines[1].count("---") == lines[0].count("|") - 1
    assert lines[2].startswith(
        "| humaneval | codegen-350M-mono-fp32 | fp32 | cpu | 75.0% \\[60.0, 87.5\\] | 40 | 40.0 | 350"
    )
    assert "| – |" in lines[3]
    assert lines[-1].startswith("- humaneval, int4 cpu against fp32 cpu: fp32 cpu is better than int4 cpu (−75.0 perc")


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme: int) -> None:
    """WCAG 2.2, success criteria 1.4.3 (text, 4.5) and 1.4.11 (drawings, 3)."""
    style = files("codegen_edge.evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    colours = {name: pair[scheme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)}

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(_luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    kinds = ("passed", "context", "syntax", "name", "exception", "assertion", "timeout", "memory", "output", "some")
    pairs = [(text, ground) for text in ("text", "muted", "accent") for ground in ("surface", "raised", "page")]
    pairs += [("text", ground) for ground in (*kinds, "warn-surface", "selection")]
    faint = {pair: round(contrast(*pair), 2) for pair in pairs if contrast(*pair) < 4.5}
    assert not faint
    tones = {f"tone{number}": round(contrast(f"tone{number}", "surface"), 2) for number in range(6)}
    assert min(tones.values()) >= 3, tones


def test_kinds_that_are_not_known_come_last() -> None:
    assert ordered_kinds({"zebra", "timeout", "passed", "alpha"}) == ["passed", "timeout", "alpha", "zebra"]


def test_paths_that_cannot_be_written_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="is not a folder; make it first"):
        write_report([folder], tmp_path / "missing" / "report.html")
    with pytest.raises(InvalidInputError, match="is a folder; give the name of a file"):
        write_report([folder], tmp_path)
    with pytest.raises(InvalidInputError, match="give two names"):
        write_report([folder], tmp_path / "report.html", tmp_path / "report.html")


def test_a_damaged_folder_leaves_the_old_page(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    before = written(tmp_path, folder)
    (folder / "results.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"results\.json is damaged"):
        write_report([folder], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_the_command_prints_the_comparisons_and_what_it_wrote(tmp_path: Path) -> None:
    folders = several(tmp_path)
    out, markdown = tmp_path / "page.html", tmp_path / "page.md"
    arguments = [*map(str, folders), "--out", str(out), "--markdown", str(markdown)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "humaneval, int8 cpu against fp32 cpu: " in result.output
    assert "unfinished: 40 of 164 problems" in " ".join(result.output.split())
    assert f"{out} and {markdown}: 4 runs, 0." in result.output
    assert out.is_file()
    assert markdown.is_file()
