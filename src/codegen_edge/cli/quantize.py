"""`codegen-edge quantize`: float bundle to a smaller one, with the damage measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.choices import METHOD, SCHEME

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.bundle import Bundle
    from codegen_edge.quantization import QuantizationReport, QuantizeOptions


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scheme", type=SCHEME, required=True)
@click.option("--block-size", type=int, help="Weights of a row that share a scale.  [default: the scheme's own]")
@click.option("--asymmetric", is_flag=True, help="Store a zero point a block, too.")
@click.option(
    "--method",
    type=METHOD,
    help="How int4 codes are chosen.  [default: gptq]",
)
@click.option("--all-4-bit", is_flag=True, help="Let int4 put the LM head, too, into 4 bits; 8 otherwise.")
@click.option("--kv-cache", type=click.Choice(("fp32", "int8")), default="fp32", show_default=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 file to calibrate with; may be given several times.  [default: programs that ship]",
)
@click.option("--budget-kl", type=float, help="Keep matrices of int4 at 8 bits until the mean KL is below this.")
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
    asymmetric: bool,
    all_4_bit: bool,
    method: str | None,
    calibration: tuple[Path, ...],
    budget_kl: float | None,
    measure_tokens: int,
    **options: Any,
) -> None:
    """Quantize BUNDLE to OUT and measure what that did: KL, top-1 agreement, perplexity.

    codegen-edge quantize my-bundle my-int8-bundle --scheme int8
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.bundle.storage import check_target
    from codegen_edge.cli.extras import require_quantize_extra
    from codegen_edge.cli.texts import read_text
    from codegen_edge.errors import InvalidInputError

    check_target(out, overwrite=options["overwrite"])
    texts = [read_text(path) for path in calibration]
    if budget_kl is not None and not measure_tokens:
        raise InvalidInputError("a budget is measured: --budget-kl needs --measure-tokens above 0")
    opened = open_bundle(bundle)
    require_quantize_extra()
    from codegen_edge.checkpoints.corpora import load_corpus
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.quantization import QuantizeOptions
    from codegen_edge.quantization.quantize import DEFAULT_METHOD

    quantized, report = _quantize(
        opened,
        out,
        QuantizeOptions(
            is_symmetric=False if asymmetric else None,
            method=method or DEFAULT_METHOD,
            kept_at_8_bits=frozenset() if all_4_bit else None,
            **options,
        ),
        texts or [file.text for file in load_corpus("calibration")],
        budget_kl,
        measure_tokens,
    )
    fields = report.to_dict()
    stderr.print(tensor_table(fields))
    if report.budget is not None:
        stderr.print(budget_line(report.budget))
    share = quantized.size_bytes / opened.size_bytes
    stdout.print(f"{out}: {quantized.size_bytes / 1e6:.1f} MB ({share:.1%} of {bundle}), {damage_line(report.damage)}")


def _quantize(
    bundle: Bundle, out: Path, options: QuantizeOptions, texts: list[str], budget_kl: float | None, measure_tokens: int
) -> tuple[Bundle, QuantizationReport]:
    """Quantize with progress shown, and measure on held-out text."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.checkpoints.corpora import load_corpus
    from codegen_edge.cli.console import stderr
    from codegen_edge.evaluation.quality.damage import Damage, measure_damage
    from codegen_edge.evaluation.quality.perplexity import document_ids
    from codegen_edge.quantization import quantize_bundle
    from codegen_edge.runtimes import open_runtime
    from codegen_edge.runtimes.registry import PROVING_RUNTIMES
    from codegen_edge.tokenizer import Tokenizer
    from codegen_edge.workflows.budget import quantize_within_budget

    tokenizer = Tokenizer(bundle.tokenizer_path)
    held_out = [file.text for file in load_corpus("held-out")]

    def measure(candidate: Bundle) -> Damage:
        progress.update(task, description="measuring on the held-out text", total=None)
        runtimes = [open_runtime(PROVING_RUNTIMES[bundle.manifest.target], each) for each in (candidate, bundle)]
        try:
            return measure_damage(runtimes[0], runtimes[1], tokenizer, held_out, max_tokens=measure_tokens)
        finally:
            for runtime in runtimes:
                runtime.close()

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        if budget_kl is not None:
            return quantize_within_budget(
                bundle,
                out,
                options,
                budget_kl,
                calibration_texts=texts,
                measure=measure,
                on_stage=lambda stage: progress.update(task, description=stage),
            )
        needs_text = options.needs_calibration
        return quantize_bundle(
            bundle,
            out,
            options,
            calibration_documents=[document_ids(tokenizer, text) for text in texts] if needs_text else [],
            measure=(lambda candidate: measure(candidate).to_dict()) if measure_tokens else None,
            on_progress=lambda done, total: progress.update(task, description="weights", completed=done, total=total),
        )


def budget_line(budget: dict[str, Any]) -> str:
    """What a budget kept at 8 bits, and why, in a sentence."""
    kept = budget["kept_at_8_bits"]
    worth = {each["name"]: each["mean_kl"] for each in budget["sensitivities"]}
    named = ", ".join(f"{name.removesuffix('.weight')} (alone: KL {worth[name]:.1e})" for name in kept) or "none"
    reached = f"KL {budget['reached_kl']:.1e} of {budget['budget_kl']:.1e} allowed"
    return f"kept at 8 bits, {len(kept)} of {len(worth)} matrices, by divergence saved for a byte: {named}; {reached}"


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
    from codegen_edge.evaluation.quality.intervals import shown_interval

    loss = shown_interval(damage.get("perplexity_loss_interval"), "+.2%")
    return (
        f"perplexity {damage['perplexity']:.3f} against {damage['reference_perplexity']:.3f} "
        f"({damage['perplexity_loss']:+.2%}{loss}), "
        f"KL {damage['mean_kl']:.1e}{shown_interval(damage.get('mean_kl_interval'), '.1e')}, "
        f"top-1 {damage['top1_agreement']:.2%}{shown_interval(damage.get('top1_interval'), '.2%')}"
    )


def quantization_report(bundle: Bundle) -> dict[str, Any] | None:
    """The report in a quantized bundle, None in a float one."""
    from codegen_edge.bundle.model_config import read_json_object
    from codegen_edge.errors import BundleError

    path = bundle.path / "quantization_report.json"
    return read_json_object(path, BundleError) if path.name in bundle.manifest.files else None
