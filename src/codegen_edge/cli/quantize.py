"""`codegen-edge quantize`: float bundle to a smaller one, with the damage measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codegen_edge.bundle import contract
from codegen_edge.bundle.processors import PROCESSOR_NAMES
from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.choices import METHOD, SCHEME, TOKEN_COUNT
from codegen_edge.cli.output import json_option, print_json
from codegen_edge.cli.paths import PATH


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("out", type=PATH)
@click.option("--scheme", type=SCHEME, required=True)
@click.option("--block-size", type=int, help="Weights of a row that share a scale.  [default: the scheme's own]")
@click.option("--asymmetric", is_flag=True, help="Store a zero point for each block.")
@click.option("--method", type=METHOD, help="How int4 codes are chosen.  [default: gptq]")
@click.option("--all-4-bit", is_flag=True, help="Let int4 store the LM head in 4 bits, too; in 8 otherwise.")
@click.option("--kv-cache", type=click.Choice(contract.KV_PRECISIONS), default="float", show_default=True)
@click.option(
    "--for",
    "processor",
    type=click.Choice(PROCESSOR_NAMES),
    help="Processors that int8-dynamic is made for, auto for this one: avx512-vnni is faster there, refused elsewhere.",
)
@click.option(
    "--calibration",
    type=PATH,
    multiple=True,
    help="UTF-8 file to calibrate with; may be given several times.  [default: programs that ship]",
)
@click.option("--budget-kl", type=float, help="Keep as few matrices of int4 at 8 bits as hold the mean KL below this.")
@click.option(
    "--measure-tokens",
    type=TOKEN_COUNT,
    default=8_192,
    show_default=True,
    help="Held-out tokens to compare with BUNDLE on, spread over all programs; 0 does not compare.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, once the new one is whole.")
@json_option
def quantize(
    bundle: Path,
    out: Path,
    asymmetric: bool,
    all_4_bit: bool,
    calibration: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize BUNDLE to OUT and measure what that did: KL divergence, top-1 agreement, perplexity.

    codegen-edge quantize my-bundle my-int8-bundle --scheme int8
    """
    from codegen_edge import workflows
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.progress import shown_progress
    from codegen_edge.cli.tables import budget_line, tensor_table
    from codegen_edge.cli.texts import read_text

    texts = [read_text(path) for path in calibration]
    with shown_progress("reading") as on_stage:
        quantized = workflows.quantize(
            bundle,
            out,
            is_symmetric=False if asymmetric else None,
            kept_at_8_bits=frozenset() if all_4_bit else None,
            calibration=texts,
            on_stage=on_stage,
            on_warning=lambda sentence: stderr.print(f"warning: {sentence}", style="yellow", soft_wrap=True),
            **options,
        )
    report, made = quantized.report, quantized.bundle
    if as_json:
        print_json({"bundle": str(out), "size_bytes": made.size_bytes, "report": report.to_dict()})
        return
    stderr.print(tensor_table(report.to_dict()))
    if report.budget is not None:
        stderr.print(budget_line(report.budget))
    share = made.size_bytes / quantized.source.size_bytes
    stdout.print(f"{out}: {made.size_bytes / 1e6:.1f} MB ({share:.1%} of {bundle}), {quantized.summary}")
