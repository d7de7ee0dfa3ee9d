"""`codegen-edge bench`: how fast are bundles here, and how near is that to what the machine can do?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.choices import RUNTIME

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.evaluation.speed.results import BundleSpeed, SpeedResult
    from codegen_edge.evaluation.speed.timing import Spread
    from codegen_edge.evaluation.speed.verdict import Verdict

_PATH = click.Path(path_type=Path)
_WIDTH = 80  # columns of what is printed
_NAME = 17  # characters of a bundle's name in a table
_MB = 1e6


@click.command()
@click.argument("bundles", metavar="BUNDLE...", type=_PATH, nargs=-1, required=True)
@click.option("--prompt-tokens", type=int, default=128, show_default=True, help="Of each row.")
@click.option("--new-tokens", type=int, default=64, show_default=True, help="Of each row, greedy.")
@click.option("--batch", type=int, default=1, show_default=True, help="Rows at one time.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Fresh processes per bundle, in turn.")
@click.option("--threads", type=int, help="CPU threads of the runtime and of the limits.  [default: all]")
@click.option("--runtime", type=RUNTIME, default="cpu", show_default=True)
@click.option("--exact-steps", is_flag=True, help="cpu: the same bits for any batch.")
@click.option("--compare", "is_comparing", is_flag=True, help="Also say which of the bundles to take here, and why.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write everything, all rounds too; - prints only that.")
@click.option("--plot", "plot_file", type=_PATH, metavar="FILE.svg", help="Draw the result.")
def bench(
    bundles: tuple[Path, ...],
    is_comparing: bool,
    json_file: str | None,
    plot_file: Path | None,
    **workload: Any,
) -> None:
    """Measure load, memory and speed of each BUNDLE in fresh processes, beside the limits of the machine.

    codegen-edge bench my-bundle my-int8-bundle --compare --plot speed.svg
    """
    from codegen_edge.bundle.storage import replace_file
    from codegen_edge.cli.progress import shown_counts
    from codegen_edge.errors import InvalidInputError
    from codegen_edge.evaluation.speed.settings import SpeedSettings
    from codegen_edge.evaluation.speed.verdict import judge
    from codegen_edge.workflows.benchmarking import bench as measure

    settings = SpeedSettings(**workload)
    if is_comparing and len(bundles) < 2:
        raise InvalidInputError("a comparison needs at least two bundles, got 1", hint="leave out --compare")
    for file in (plot_file, None if json_file in (None, "-") else Path(str(json_file))):
        if file is not None:
            _require_writable(file)
    with shown_counts("opening") as on_stage:
        result = measure(bundles, settings, on_stage=on_stage)
    verdict = judge(result) if len(bundles) > 1 else None
    if json_file is not None:
        text = _as_json(result, verdict)
        if json_file == "-":
            click.echo(text)
        else:
            replace_file(Path(json_file), f"{text}\n".encode())
    if json_file != "-":
        _show_result(result)
        if verdict is not None and is_comparing:
            _show_verdict(verdict)
    if plot_file is not None:
        from codegen_edge.evaluation.speed.chart import speed_chart

        replace_file(plot_file, f"{speed_chart(result)}\n".encode())


def _as_json(result: SpeedResult, verdict: Verdict | None) -> str:
    return json.dumps(result.to_dict() | {"verdict": None if verdict is None else verdict.to_dict()}, indent=2)


def _require_writable(file: Path) -> None:
    """Raise InvalidInputError where a file cannot be written: before minutes are spent on what goes into it."""
    import tempfile

    from codegen_edge.errors import InvalidInputError

    parent = file.absolute().parent
    if file.is_dir():
        raise InvalidInputError(f"{file} is a folder; name a file in it")
    if not parent.is_dir():
        raise InvalidInputError(f"{parent} is not a folder; make it first")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as exc:
        raise InvalidInputError(f"{file} cannot be written: {exc.strerror or exc}") from exc


def _show_result(result: SpeedResult) -> None:
    """Print figures, bars and limits."""
    from codegen_edge.cli.console import stdout

    _lines(_title(result))
    stdout.print(_cost_table(result.bundles), width=_WIDTH)
    for title, figure in (
        ("decode, tokens/s: median (range)", "decode_tokens_per_second"),
        ("prefill, tokens/s: median (range)", "prefill_tokens_per_second"),
    ):
        _bars(title, [(each.label, getattr(each, figure)) for each in result.bundles])
    stdout.print()
    stdout.print(_step_table(result.bundles), width=_WIDTH)
    _show_limits(result)


def _show_verdict(verdict: Verdict) -> None:
    """Print which bundle to take, and what it rests on."""
    from codegen_edge.cli.console import stdout

    stdout.print()
    for figure, noise in verdict.noise.items():
        if figure in verdict.too_noisy:
            _lines(f"{figure}: too noisy for a verdict: {verdict.too_noisy[figure]}")
            continue
        of_figure = [each for each in verdict.comparisons if each.figure == figure]
        beside = [
            f"{_times(each.ratio)} {each.other}" if each.is_different else f"no difference to {each.other}"
            for each in of_figure
        ]
        _lines(f"{figure}: {of_figure[0].best} best: {', '.join(beside)} (noise {noise:.1%})")
    if verdict.surroundings:
        _lines(f"the machine was busy: {'; '.join(verdict.surroundings)}")
    if verdict.take is None:
        _lines(f"no verdict: {verdict.why}; try again when it is quiet, or with more rounds")
    else:
        _lines(f"take {verdict.take}: {verdict.why}")


def _lines(text: str) -> None:
    """Print a text, broken at 80 columns whatever the terminal has."""
    import textwrap

    from codegen_edge.cli.console import stdout

    for line in textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False):
        stdout.print(line)


def _title(result: SpeedResult) -> str:
    settings, machine = result.settings, result.machine
    rows = "" if settings.batch == 1 else f"{settings.batch} rows of "
    exact = ", exact steps" if settings.exact_steps else ""
    return (
        f"{rows}{settings.prompt_tokens:,} prompt and {settings.new_tokens:,} new tokens, {settings.rounds} rounds, "
        f"runtime {settings.runtime}{exact}, {machine['threads']} threads; {machine['processor']}"
    )


def _table(first: str, columns: Sequence[str]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cost_table(bundles: Sequence[BundleSpeed]) -> Table:
    columns = ("import s", "open s", "cold start s*", "first token ms", "files MB", "peak RSS MB")
    table = _table("median", columns)
    for each in bundles:
        peak = "–" if each.peak_rss_bytes is None else f"{each.peak_rss_bytes.median / _MB:,.0f}"
        table.add_row(
            _short(each.label),
            f"{each.import_s.median:.2f}",
            f"{each.open_s.median:.2f}",
            f"{each.cold_start_s.median:.2f}",
            f"{1000 * each.first_token_s.median:,.0f}",
            f"{each.file_bytes / _MB:,.0f}",
            peak,
        )
    return table


def _step_table(bundles: Sequence[BundleSpeed]) -> Table:
    columns = ("step ms p50", "p90", "p99", "MB read per step", "decode of memory", "prefill of products")
    table = _table("", columns)
    for each in bundles:
        line = each.roofline
        limits = ("–", "–", "–")
        if line is not None:
            limits = (
                f"{line.decode_bytes / _MB:,.1f}",
                "(in cache)" if line.is_cached else _share(line.decode_of_memory),
                _share(line.prefill_of_products),
            )
        table.add_row(_short(each.label), *(f"{each.step_ms[name]:,.1f}" for name in ("p50", "p90", "p99")), *limits)
    return table


def _bars(title: str, rows: Sequence[tuple[str, Spread]]) -> None:
    """Print a bar per bundle; its length is the median."""
    from codegen_edge.cli.console import stdout

    stdout.print(title)
    digits = 0 if max(spread.high for _, spread in rows) >= 1000 else 1
    shown = [f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}–{spread.high:,.{digits}f})" for _, spread in rows]
    room = _WIDTH - _NAME - 2 - max(map(len, shown))
    longest = max(spread.median for _, spread in rows)
    for (label, spread), text in zip(rows, shown, strict=True):
        name = _short(label)
        bar = "█" * max(1, round(room * spread.median / longest))
        stdout.print(f"{name:<{_NAME}} {bar} {text}")


def _show_limits(result: SpeedResult) -> None:
    limits = result.limits
    if limits is None:
        _lines(f"no limits: {result.no_roofline}")
    else:
        ways = ", ".join(f"{way} {spread.high / 1e9:.1f}" for way, spread in limits.read_bytes.items())
        _lines(f"limit of memory: {limits.bandwidth / 1e9:.1f} GB/s read ({ways})")
        products = ", ".join(f"{kind} {spread.high / 1e9:,.0f}" for kind, spread in limits.multiplications.items())
        _lines(f"limits of products, 10⁹ multiplications/s: {products}")
    _lines("* from the start of a process, with its files in the page cache already")


def _short(label: str) -> str:
    """A label or its end: what tells bundles of one model apart stands there."""
    return label if len(label) <= _NAME else f"…{label[1 - _NAME :]}"


def _share(spread: Spread) -> str:
    return f"{spread.median:.0%} ({100 * spread.low:.0f}–{100 * spread.high:.0f})"


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"
