"""`codegen-edge quantize`: float bundle to a smaller one, with the damage measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.bundle import Bundle

_SCHEMES = ("int8", "int4", "int8-dynamic", "fp16")
_METHODS = ("round", "search", "gptq")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scheme", type=click.Choice(_SCHEMES), required=True)
@click.option("--block-size", type=int, help="Weights of a row that share a scale.  [default: the scheme's own]")
@click.option("--asymmetric", is_flag=True, help="Store a zero point a block, too.")
@click.option("--method", type=click.Choice(_METHODS), help="How int4 codes are chosen.  [default: gptq]")
@click.option("--kv-cache", type=click.Choice(("fp32", "int8")), default="fp32", show_default=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 file to calibrate with; may be given several times.  [default: programs that ship]",
)
@click.option(
    "--measure-tokens",
    type=click.IntRange(min=0),
    default=16_384,
    show_default=True,
    help="Held-out tokens to compare with BUNDLE on; 0 does not compare.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, once the new one is whole.")
def quantize(
    bundle: Path,
    out: Path,
    scheme: str,
    block_size: int | None,
    asymmetric: bool,
    method: str | None,
    kv_cache: Any,
    calibration: tuple[Path, ...],
    measure_tokens: int,
    overwrite: bool,
) -> None:
    """Quantize BUNDLE to OUT and measure what that did: KL, top-1 agreement, perplexity.

    codegen-edge quantize my-bundle my-int8-bundle --scheme int8
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.cli.extras import require_quantize_extra
    from codegen_edge.cli.texts import read_text
    from codegen_edge.storage import check_target

    check_target(out, overwrite=overwrite)
    texts = [read_text(path) for path in calibration]
    opened = open_bundle(bundle)
    require_quantize_extra()
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.checkpoints.corpora import load_corpus
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.evaluation.damage import measure_damage
    from codegen_edge.evaluation.perplexity import document_ids
    from codegen_edge.quantization import QuantizeOptions, quantize_bundle
    from codegen_edge.quantization.quantize import DEFAULT_METHOD
    from codegen_edge.runtimes import open_runtime
    from codegen_edge.tokenizer import Tokenizer

    options = QuantizeOptions(
        scheme=scheme,
        block_size=block_size,
        is_symmetric=False if asymmetric else None,
        method=method or DEFAULT_METHOD,
        kv_cache=kv_cache,
        overwrite=overwrite,
    )
    tokenizer = Tokenizer(opened.tokenizer_path)
    documents = []
    if options.needs_calibration:
        texts = texts or [file.text for file in load_corpus("calibration")]
        documents = [document_ids(tokenizer, text) for text in texts]

    def measure(candidate: Bundle) -> dict[str, Any]:
        progress.update(weights, description="measuring on the held-out text", total=None)
        runtimes = [open_runtime("cpu", each) for each in (candidate, opened)]
        try:
            held_out = [file.text for file in load_corpus("held-out")]
            damage = measure_damage(runtimes[0], runtimes[1], tokenizer, held_out, max_tokens=measure_tokens)
            return damage.to_dict()
        finally:
            for runtime in runtimes:
                runtime.close()

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        weights = progress.add_task("reading", total=None)
        quantized, report = quantize_bundle(
            opened,
            out,
            options,
            calibration_documents=documents,
            measure=measure if measure_tokens else None,
            on_progress=lambda done, total: progress.update(
                weights, description="weights", completed=done, total=total
            ),
        )
    stderr.print(tensor_table(report.to_dict()))
    share = quantized.size_bytes / opened.size_bytes
    stdout.print(f"{out}: {quantized.size_bytes / 1e6:.1f} MB ({share:.1%} of {bundle}), {damage_line(report.damage)}")


def tensor_table(report: dict[str, Any]) -> Table:
    """A quantization report's matrices as a table; equal rows of many layers are put together."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=f"{report['scheme']}, matrix by matrix", title_justify="left", box=SIMPLE)
    table.add_column("matrices")
    for column in ("relative error", "bytes before", "after"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stored as")
    table.add_column("why")
    kinds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for tensor in report["tensors"]:
        key = (tensor["name"].split(".")[-2], tensor["form"], tensor["reason"])
        kinds.setdefault(key, []).append(tensor)
    for (kind, form, reason), tensors in kinds.items():
        errors = [tensor["relative_error"] for tensor in tensors]
        span = f"{min(errors):.2%}" if len(errors) == 1 else f"{min(errors):.2%} … {max(errors):.2%}"
        table.add_row(
            kind if len(tensors) == 1 else f"{len(tensors)} × {kind}",
            span,
            f"{sum(tensor['bytes_before'] for tensor in tensors):,}",
            f"{sum(tensor['bytes_after'] for tensor in tensors):,}",
            form,
            reason,
        )
    return table


def damage_line(damage: dict[str, Any] | None) -> str:
    """What quantizing did to the model, in a line."""
    if damage is None:
        return "damage not measured"
    return (
        f"perplexity {damage['perplexity']:.3f} against {damage['reference_perplexity']:.3f} "
        f"({damage['perplexity_loss']:+.2%}), KL {damage['mean_kl']:.1e}, top-1 {damage['top1_agreement']:.2%}"
    )


def quantization_report(bundle: Bundle) -> dict[str, Any] | None:
    """The report in a quantized bundle, None in a float one."""
    from codegen_edge.errors import BundleError
    from codegen_edge.model_config import read_json_object

    path = bundle.path / "quantization_report.json"
    return read_json_object(path, BundleError) if path.name in bundle.manifest.files else None
