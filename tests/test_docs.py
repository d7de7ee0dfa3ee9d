"""What README and docs say is what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from benchmarks.report import PAGES as WRITTEN
from benchmarks.report import README, render
from benchmarks.tables.common import load
from codegen_edge import errors
from codegen_edge.bundle import Bundle
from codegen_edge.cli import COMMANDS, cli
from codegen_edge.workflows.quantize_checks import warn_of_short_text

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINES = sorted(
    {line for page in PAGES for line in re.findall(r"^ {4}(codegen-edge .*)$", page.read_text(), re.MULTILINE)}
)


def found(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def understand(words: list[str]) -> None:
    """Parse a line without `codegen-edge`, down to the command of a group."""
    name, *arguments = words
    command = found(name)
    while isinstance(command, click.Group):
        context = click.Context(command)
        resolved, inner, arguments = command.resolve_command(context, arguments)
        assert inner is not None
        name, command = resolved or name, inner
    command.make_context(name, arguments, resilient_parsing=False)


@pytest.mark.parametrize("line", LINES)
def test_every_command_in_the_pages_is_understood(line: str) -> None:
    understand(shlex.split(line)[1:])


def test_pages_show_every_command() -> None:
    shown = {shlex.split(line)[1] for line in LINES}
    assert {"export", "verify", "generate", "inspect"} <= shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_ends_in_a_line_to_copy(name: str) -> None:
    text = found(name).help
    assert text is not None
    lines = [line for line in text.splitlines() if line.strip().startswith("codegen-edge")]
    assert lines
    for line in lines:
        understand(shlex.split(line)[1:])


def test_program_in_the_readme_runs(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(program.replace('"my-bundle"', repr(str(tiny_bundle.path))), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_numbers_in_a_page_are_those_of_the_results(page: Path) -> None:
    assert render(page) == page.read_text()


def test_every_error_has_its_heading_in_troubleshooting() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    base = errors.CodegenEdgeError
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, base)]
    codes = {errors.code_of(each) for each in classes if each is not base}
    assert set(re.findall("^## (.*)$", page, re.MULTILINE)) == codes
    assert errors.code_of(errors.IntegrityError) == "integrity-error"


def test_numbers_in_the_warning_of_a_short_text_are_those_of_the_result() -> None:
    said: list[str] = []
    warn_of_short_text(100, said.append)
    rows = load("calibration.json")["int4"]
    wanted = [rows[name]["perplexity_loss"] for name in ("64", "1024", "32768", "round")]
    assert re.findall(r"(\d\.\d)%", said[0]) == [f"{100 * loss:.1f}" for loss in wanted]


def test_numbers_of_constraints_are_those_of_the_result() -> None:
    page = (REPOSITORY / "docs" / "constraints.md").read_text().partition("## Measured")[2]
    result = load("grammar.json")
    schemas, greedy = result["random_schemas"], result["greedy"]
    assert f"{schemas['schemas']} random schemas" in page
    assert f"({schemas['valid']['stop']} of {schemas['ended']['stop']})" in page
    assert f"{schemas['ended']['length']} reached the limit" in page
    assert f"{greedy['equal']} of {greedy['steps']} steps" in page
    one, eight = result["step"]["rows_1"], result["step"]["rows_8"]
    ratios = [each["constrained_over_free"] for each in (one, eight)]
    shown = [f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f}×)" for ratio in ratios]
    assert f"took {shown[0]} as long for one row, and {shown[1]} for eight" in page.replace("\n", " ")
    assert f"up to {one['noise']:.0%} and {eight['noise']:.0%}" in page
