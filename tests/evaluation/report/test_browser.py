"""The page in headless Chromium: the grid by mouse and by keys, completions with their differences, both schemes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from codegen_edge.evaluation.report import write_report
from tests.evaluation.report.synthetic import make_folder

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.browser

FIRST = "    total = 0\n    for value in values:\n        total += value\n    return total"
SECOND = "    total = 0\n    for value in values:\n        if value > 0:\n            total -= value\n    return total"
REFERENCE = (
    "    total = 0\n    for value in values:\n        if value > 0:\n            total += value\n    return total\n"
)
PATIENCE_SECONDS = 10.0
ATTACK = "</script><script>document.title = 'attacked'</script><img src=x onerror=alert(1)>"


class Page:
    """What a reader does with the report and sees of it."""

    def __init__(self, chrome: Chrome, path: Path) -> None:
        self.chrome = chrome
        self.path = path

    def open(self) -> None:
        self.chrome.get(self.path.as_uri())

    def __getitem__(self, selector: str) -> WebElement:
        return self.chrome.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    def script(self, body: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(body, *arguments)

    def keys(self, *names: str) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for name in names:
            ActionChains(self.chrome).send_keys(getattr(Keys, name)).perform()

    def until(self, condition: Callable[[], bool]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.chrome, PATIENCE_SECONDS, poll_frequency=0.02).until(lambda _: condition())

    def choose(self, selector: str, text: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self[selector]).select_by_visible_text(text)

    def cell(self, task_id: str, run: int) -> WebElement:
        return self[f"button.cell[data-problem='{task_id}'][data-run='{run}']"]

    def lines(self, pane: str) -> list[tuple[str, str]]:
        """Sign and text of the lines of a pane; of blanks that align it, a sign alone."""
        found = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((row) => [row.classList.contains('blank') ? '' : "
            "row.dataset.sign, row.textContent])",
            f"#{pane} .row",
        )
        return [(sign, text) for sign, text in found]

    @property
    def focus(self) -> tuple[str | None, str | None]:
        active = self.chrome.switch_to.active_element
        return active.get_attribute("data-problem"), active.get_attribute("data-run")

    @property
    def tip(self) -> str:
        return self["#tip"].text

    def screen(self, width: int, height: int, *, scheme: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def folders_of(base: Path) -> list[Path]:
    """Two runs of three problems: HumanEval/0 fails in both, HumanEval/1 is an attack, HumanEval/2 passes in both."""
    folders = []
    for name, code in (("fp32", FIRST), ("int8", SECOND)):
        folder = make_folder(base / name, precision=name, num_problems=3, chances=[0.0, 0.0, 1.0], seed=7)
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        for sample, text in zip(samples, (code, ATTACK, REFERENCE), strict=True):
            sample["completions"] = [text]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        verdicts = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
        for verdict in verdicts[:2]:
            verdict.update(kind="assertion", message=f"AssertionError: {ATTACK}")
        (folder / "verdicts.jsonl").write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts))
        problems = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
        lines = [json.dumps({**problem, "reference": REFERENCE}) + "\n" for problem in problems]
        (folder / "problems.jsonl").write_text("".join(lines))
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("report")
    folders = [
        *folders_of(base),
        make_folder(base / "mtpb", task="mtpb", precision="int4", num_problems=30, num_samples=5, num_turns=3),
    ]
    return write_report(folders, base / "report.html").html_path


@pytest.fixture
def page(chromium: Chrome, report: Path) -> Iterator[Page]:
    page = Page(chromium, report)
    page.screen(1280, 900)
    page.open()
    page.script("localStorage.clear()")
    page.open()
    yield page
    complaints = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    title = chromium.title
    chromium.get("about:blank")
    assert not complaints
    assert title == "codegen-edge: evaluation report"


def test_a_click_shows_both_completions_and_where_they_differ(page: Page) -> None:
    page.cell("HumanEval/0", 0).click()
    assert page["#problem"].get_property("value") == "0"
    assert page.lines("first") == [
        (" ", "    total = 0"),
        (" ", "    for value in values:"),
        ("−", "        total += value"),
        ("", ""),
        (" ", "    return total"),
    ]
    assert page.lines("second") == [
        (" ", "    total = 0"),
        (" ", "    for value in values:"),
        ("+", "        if value > 0:"),
        ("+", "            total -= value"),
        (" ", "    return total"),
    ]
    assert [text for _, text in page.lines("reference")] == REFERENCE.splitlines()
    assert page["#first-verdict"].text.startswith("✗ failed: assertion. AssertionError: ")
    pressed = [cell.get_attribute("data-run") for cell in page.all("button.cell[aria-pressed='true']")]
    assert pressed == ["0", "1"]


def test_both_are_compared_with_the_reference(page: Page) -> None:
    page.choose("#marked", "the reference")
    assert [text for sign, text in page.lines("first") if sign == "+"] == ["        total += value"]
    assert [text for sign, text in page.lines("second") if sign == "+"] == ["            total -= value"]
    assert len(page.lines("first")) == len(page.lines("second")) == len(page.lines("reference"))
    page.choose("#marked", "nothing")
    assert {sign for pane in ("first", "second") for sign, _ in page.lines(pane)} == {" "}


def test_equal_completions_have_no_marks(page: Page) -> None:
    page.cell("HumanEval/2", 1).click()
    assert page["#first-verdict"].text.startswith("✓ passed")
    assert {sign for pane in ("first", "second") for sign, _ in page.lines(pane)} == {" "}


def test_an_attack_in_a_completion_stays_text(page: Page) -> None:
    page.cell("HumanEval/1", 0).click()
    assert page.lines("first") == [(" ", ATTACK)]
    assert ATTACK in page["#first-verdict"].text
    assert not page.all("img")


def test_hovering_and_focusing_a_cell_tell_why_it_failed(page: Page) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page.chrome).move_to_element(page.cell("HumanEval/0", 1)).perform()
    page.until(lambda: page.tip.startswith("HumanEval/0, int8 cpu: 0 of 1 passed; assertion 1. AssertionError: </scr"))
    page.script("arguments[0].focus()", page.cell("HumanEval/2", 0))
    page.until(lambda: page.tip == "HumanEval/2, fp32 cpu: 1 of 1 passed")
    page.keys("ESCAPE")
    assert page.tip == ""


def test_keys_move_in_the_grid_and_open_a_problem(page: Page) -> None:
    assert len(page.all("button.cell[tabindex='0']")) == 2  # one stop of the tab key for each task
    page.script("document.querySelector('button.cell[tabindex=\"0\"]').focus()")
    visited = []
    for key in ("ARROW_DOWN", "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_DOWN", "ARROW_DOWN", "HOME", "PAGE_UP", "END"):
        page.keys(key)
        visited.append(page.focus)
    one, two = "HumanEval/1", "HumanEval/2"
    assert visited[:6] == [(one, "0"), (one, "1"), (one, "1"), (two, "1"), (two, "1"), (two, "0")]
    assert visited[6:] == [("HumanEval/0", "0"), ("HumanEval/0", "1")]
    page.keys("ENTER")
    assert page["#first-run"].get_property("value") == "1"
    assert page["#second-run"].get_property("value") == "0"
    assert [sign for sign, _ in page.lines("first")] == [" ", " ", "−", "−", " "]


def test_the_grid_can_be_filtered(page: Page) -> None:
    page.choose("#grid-filter", "that every run solves")
    shown = [row.text for row in page.all(".grid tbody th") if row.is_displayed()]
    assert "HumanEval/2" in shown
    assert "HumanEval/0" not in shown
    assert page["#grid-count"].text == f"{len(shown)} of 33 problems"
    first = page["button.cell[tabindex='0']"]
    assert first.get_attribute("data-problem") == "HumanEval/2"


def test_one_problem_leads_to_the_next(page: Page) -> None:
    assert not page["#previous"].is_enabled()
    page["#next"].click()
    assert page["#problem"].get_property("value") == "1"
    page["#previous"].click()
    assert page["#problem"].get_property("value") == "0"
    page.script("arguments[0].click()", page["#completions details summary"])
    assert "def solve_0" in page["#prompt"].text


def test_turns_and_both_kinds_of_samples_are_shown(page: Page) -> None:
    mixed = page["button.cell.some[data-task='mtpb']"]
    page.script("arguments[0].click()", mixed)
    options = [option.text for option in page.all("#first-sample option")]
    assert sorted(text.split(",")[0] for text in options) == ["failing", "passing"]
    assert page["#first-verdict"].text.startswith("✗ failed")
    page.choose("#first-sample", next(text for text in options if text.startswith("passing")))
    assert page["#first-verdict"].text.startswith("✓ passed")
    assert [text for _, text in page.lines("first") if text.startswith("─")] == ["─ turn 1", "─ turn 2", "─ turn 3"]
    assert not page["#second"].is_displayed()  # this task has one run


def test_the_scheme_follows_the_system_until_one_is_chosen(page: Page) -> None:
    def background() -> str:
        return page["body"].value_of_css_property("background-color")

    light = background()
    page.screen(1280, 900, scheme="dark")
    page.open()
    dark = background()
    assert dark != light
    page.choose("#theme", "Light")
    assert background() == light
    page.open()
    assert background() == light
    page.script("localStorage.clear()")


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen_or_covers_another_label(page: Page, width: int) -> None:
    page.screen(width, 844)
    page.open()
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    overlapping = """
      const found = [];
      for (const drawing of document.querySelectorAll("svg.chart, svg.bars")) {
        const texts = [...drawing.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
        const frame = drawing.getBoundingClientRect();
        texts.forEach((one, at) => {
          if (one.width && (one.right > frame.right + 1 || one.left < frame.left - 1)) found.push("cut");
          for (const other of texts.slice(at + 1)) {
            const isBeside = one.right <= other.left || other.right <= one.left;
            const isAbove = one.bottom <= other.top + 2 || other.bottom <= one.top + 2;
            if (!isBeside && !isAbove) found.push("overlap");
          }
        });
      }
      return found;"""
    assert page.script(overlapping) == []


def test_without_javascript_the_tables_and_charts_are_there(page: Page) -> None:
    page.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open()
        assert page["#runs table"].is_displayed()
        assert "This part needs JavaScript." in page["#completions"].text
        assert not page["#next"].is_displayed()
    finally:
        page.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
