"""The grid of problems and runs: how many samples of each problem passed, and why the others failed."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.evaluation.report.markup import Markup, element, joined
from codegen_edge.evaluation.report.results import PASSED, Run, Tally, natural_order, ordered_kinds
from codegen_edge.evaluation.report.sections import section

ALL, SOME, NO = "✓", "◐", "✗"


def grid_section(runs: Sequence[Run]) -> Markup:
    """A grid for each task; the script moves the focus inside of it and shows the problem that is chosen."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    explanation = element(
        *("p", element("span", f"{ALL} all samples pass", class_="all key"), " "),
        *(element("span", f"{SOME} some pass", class_="some key"), " "),
        *(element("span", f"{NO} none passes", class_="none key"), " "),
        element("span", "Arrow keys move, Enter shows the completions.", class_="note script-only"),
        class_="grid-key",
    )
    choice = element(
        *("label", "Show "),
        element(
            *("select", element("option", "all problems", value="all")),
            element("option", "where runs differ", value="differ"),
            element("option", "that no run solves", value="none"),
            element("option", "that every run solves", value="all-pass"),
            id="grid-filter",
        ),
        class_="inline script-only",
    )
    bar = element(
        "div", explanation, choice, element("span", "", id="grid-count", class_="note", role="status"), class_="bar"
    )
    grids = element("div", *(_grid(task, runs, len(tasks) > 1) for task in tasks), class_="grids")
    return section("grid", "Problems", bar, grids)


def _grid(task: str, runs: Sequence[Run], is_named: bool) -> Markup:
    columns = [(number, run) for number, run in enumerate(runs) if run.task == task]
    task_ids = sorted({task_id for _, run in columns for task_id in run.tallies}, key=natural_order)
    heads = [
        element("th", run.label, element("span", run.state, class_="mark") if run.state else "", scope="col")
        for _, run in columns
    ]
    rows = [_row(task, task_id, columns) for task_id in task_ids]
    content = element(
        *("table", element("caption", f"{task}: samples that passed, by problem and run", class_="hidden")),
        element("thead", element("tr", element("th", "Problem", scope="col"), *heads)),
        element("tbody", *rows),
        class_="grid",
    )
    title = element("h3", task) if is_named else ""
    return element("div", title, element("div", content, class_="scroll tall"))


def _row(task: str, task_id: str, columns: Sequence[tuple[int, Run]]) -> Markup:
    tallies = [run.tallies.get(task_id) for _, run in columns]
    shares = {tally.num_passed / tally.num_samples for tally in tallies if tally is not None}
    differs, most, least = len(shares) > 1, max(shares), min(shares)
    state = "differ" if differs else "none" if most == 0 else "all-pass" if least == 1 else "some"
    cells = [
        element("td", _cell(task, task_id, number, run.label, tally))
        for (number, run), tally in zip(columns, tallies, strict=True)
    ]
    return element("tr", element("th", task_id, scope="row"), *cells, data_state=state)


def _cell(task: str, task_id: str, number: int, label: str, tally: Tally | None) -> Markup:
    if tally is None:
        return element("span", "·", element("span", "not run", class_="hidden"), class_="cell absent")
    passed, total = tally.num_passed, tally.num_samples
    state, symbol = ("all", ALL) if passed == total else ("some", SOME) if passed else ("none", NO)
    return element(
        *("button", element("span", symbol, aria_hidden="true"), f" {passed}/{total}"),
        type="button",
        class_=f"cell {state}",
        tabindex=-1,
        data_task=task,
        data_problem=task_id,
        data_run=number,
        aria_label=f"{task_id}, {label}: {passed} of {total} passed{_why(tally)}",
    )


def _why(tally: Tally) -> str:
    """The kinds of failure, and the message of the first one."""
    kinds = [kind for kind in ordered_kinds(set(tally.kinds)) if kind != PASSED]
    if not kinds:
        return ""
    failed = next((sample for sample in tally.kept if not sample.passed), None)
    message = f". {failed.message[:_LONGEST_MESSAGE]}" if failed is not None and failed.message else ""
    return f"; {', '.join(f'{kind} {tally.kinds[kind]}' for kind in kinds)}{message}"


_LONGEST_MESSAGE = 120  # characters: what a hover shows; the whole message stands beside the completion


def viewer_section(longest_text: int | None) -> Markup:
    """Where the script shows the completions of the chosen problem."""

    def choice(name: str, label: str) -> Markup:
        return element("label", f"{label} ", element("select", id=name), class_="inline")

    controls = element(
        *("div", element("button", "← Previous", type="button", id="previous")),
        element("label", "Problem ", element("select", id="problem"), class_="inline wide-choice"),
        element("button", "Next →", type="button", id="next"),
        choice("marked", "Mark lines that differ from"),
        class_="bar",
    )
    cut = "" if longest_text is None else f" Texts are cut after {longest_text:,} characters."
    note = f"Of each run and problem, the first passing and the first failing sample are kept in this report.{cut}"
    panes = joined(_pane(name) for name in ("first", "second"))
    reference = element(
        *("section", element("div", element("h3", "Reference"), class_="bar")),
        element("p", "", class_="verdict"),
        element("div", "", class_="code", id="reference", tabindex=0, role="group", aria_label="Reference"),
        class_="pane",
    )
    prompt = element(
        "details", element("summary", "Prompt"), element("pre", "", id="prompt", class_="code", tabindex=0)
    )
    return section(
        *("completions", "Completions side by side"),
        element("p", "This part needs JavaScript.", class_="note no-script"),
        element("div", controls, prompt, element("div", panes, reference, class_="panes"), class_="script-only"),
        element("p", note, class_="note"),
    )


def _pane(name: str) -> Markup:
    title = {"first": "First run", "second": "Second run"}[name]
    return element(
        "section",
        element(
            *("div", element("select", id=f"{name}-run", aria_label=title)),
            element("select", id=f"{name}-sample", aria_label=f"{title}: sample"),
            class_="bar",
        ),
        element("p", "", class_="verdict", id=f"{name}-verdict"),
        element("div", "", class_="code", id=name, tabindex=0, role="group", aria_label=f"{title}: completion"),
        class_="pane",
    )
