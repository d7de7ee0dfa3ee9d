"""`codegen-edge demo`: the whole way, with the very commands that a person would type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.output import print_json
from codegen_edge.cli.paths import PATH

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.bundle import Bundle

CHECKPOINT = "codegen-5M-mono"
PROMPTS = (
    "def read_lines(path):\n    ",
    "class Stack:\n    def __init__(self):\n        ",
    "import os\nimport sys\n\ndef main(",
)
_SAMPLING = ("--temperature", "0.2", "--top-p", "0.95", "--seed", "1")  # CodeGen's own sampling (sample.py)
_TIMED_TOKENS = 256
# The default method of int4, gptq, reads 131,072 tokens; a demo is over before that.
_QUANTIZING = {
    "int8": ("--measure-tokens", "4096", "--overwrite"),
    "int4": ("--method", "search", "--measure-tokens", "4096", "--overwrite"),
}


@click.command()
@click.argument("folder", type=PATH, default=Path("codegen-edge-demo"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each step, and one for all bundles.")
def demo(folder: Path, as_json: bool) -> None:
    """Export the checkpoint that ships, prove it equal, quantize it, and generate; bundles go to FOLDER.

    codegen-edge demo
    """
    from codegen_edge.bundle.storage import storage_errors
    from codegen_edge.cli.console import stdout
    from codegen_edge.workflows.packages import require_export_packages

    require_export_packages()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    bundles = {precision: folder / precision for precision in ("fp32", "int8", "int4")}
    shared = ("--json",) if as_json else ()
    _run("export", CHECKPOINT, str(bundles["fp32"]), "--overwrite", *shared)
    for scheme, options in _QUANTIZING.items():
        _run("quantize", str(bundles["fp32"]), str(bundles[scheme]), "--scheme", scheme, *options, *shared)
    for bundle, prompt in zip(bundles.values(), PROMPTS, strict=True):
        _run("generate", str(bundle), "--prompt", prompt, "--max-new-tokens", "64", *_SAMPLING, *shared)
    rows = [_row(bundle) for bundle in bundles.values()]
    if as_json:
        print_json({"bundles": rows})
    else:
        stdout.print(_table(rows))


def _run(name: str, *arguments: str) -> None:
    """Show a command, then run it."""
    from codegen_edge.cli import cli
    from codegen_edge.cli.console import stderr

    shown = " ".join(_quoted(argument) for argument in (name, *arguments))
    stderr.print(f"\n$ codegen-edge {shown}", style="bold")
    cli.main([name, *arguments], standalone_mode=False)


def _quoted(argument: str) -> str:
    """As a shell with $'…' takes it, which shows a newline as \\n."""
    if argument.isprintable() and " " not in argument:
        return argument
    return f"$'{argument}'".replace("\n", "\\n")


def _row(path: Path) -> dict[str, Any]:
    """Size, error, agreement and speed of a bundle."""
    from codegen_edge.bundle import open_bundle
    from codegen_edge.generation.model import load_model

    bundle = open_bundle(path, check="size")
    max_abs_error, agreement = _figures(bundle)
    with load_model(path, check="size") as model:
        completion = model.generate(PROMPTS[0], max_new_tokens=_TIMED_TOKENS)
    return {
        "bundle": bundle.manifest.precision,
        "size_bytes": bundle.size_bytes,
        "max_abs_error": max_abs_error,
        "top1_agreement": agreement,
        "tokens_per_second": round(completion.decode_tokens_per_second, 3),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title="against the reference (int8 and int4: against fp32)", title_justify="left", box=SIMPLE)
    for column in ("bundle", "size", "max |Δlogit|", "top-1 agreement", "tokens/s"):
        table.add_column(column, justify="left" if column == "bundle" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["bundle"],
            f"{row['size_bytes'] / 1e6:.1f} MB",
            f"{row['max_abs_error']:.1e}",
            f"{row['top1_agreement']:.2%}",
            f"{row['tokens_per_second']:.0f}",
        )
    return table


def _figures(bundle: Bundle) -> tuple[float, float]:
    """Largest error of a logit and top-1 agreement, as export and quantize wrote them down."""
    if bundle.manifest.parity is None:
        damage = json.loads((bundle.path / "quantization_report.json").read_text())["damage"]
        return damage["max_abs_error"], damage["top1_agreement"]
    comparisons = bundle.manifest.parity["comparisons"]
    agreed = sum(each["top1_agreement"] * each["positions"] for each in comparisons)
    positions = sum(each["positions"] for each in comparisons)
    return max(each["max_abs_error"] for each in comparisons), agreed / positions
