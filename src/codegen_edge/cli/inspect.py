"""`codegen-edge inspect`: what a bundle holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.bundle import contract
from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.output import print_json

if TYPE_CHECKING:
    from codegen_edge.bundle import Bundle, Manifest


_INDENT = 16  # the longest label and a space


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json in one line, after checking the files.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE is made of, check every file's hash, and show the last verdict.

    codegen-edge inspect my-bundle
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.cli.console import stdout
    from codegen_edge.cli.layout import described
    from codegen_edge.cli.tables import file_table, tensor_table

    opened = open_bundle(bundle)
    if as_json:
        print_json(json.loads(opened.manifest.to_json()))
        return
    report = _quantization_report(opened)
    for label, text in _facts(opened.manifest, report):
        click.echo(described(label, text, stdout, indent=_INDENT))
    if report is not None:
        click.echo()
        stdout.print(tensor_table(report))
    click.echo()
    stdout.print(file_table(opened.manifest.files))
    stdout.print(f"{opened.size_bytes / 1e6:.1f} MB in all; every file is as it was exported")


def _facts(manifest: Manifest, report: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What a bundle is, label by label."""
    from codegen_edge.evaluation.quality.damage import damage_line

    model, source = manifest.model, manifest.source
    yield "made of", f"{source.name} {source.revision or ''}({source.weights_dtype})"
    yield "source sha256", source.sha256
    compute = "" if manifest.compute == "fp32" else f", computing in {manifest.compute}"
    compute += "" if manifest.processor == "any" else f", for processors with {manifest.processor.upper()}"
    yield "task, target", f"{manifest.task}, {manifest.target}, {manifest.precision}{compute}"
    yield (
        "model",
        f"{model.num_layers} layers, {model.num_heads} heads of {model.head_dim}, rotary {model.rotary_dim}, "
        f"context {model.context_length}, vocabulary {model.vocab_size}",
    )
    yield "KV cache", f"{manifest.cache_precision}, {_kv_bytes_per_token(manifest) / 1024:g} KiB per token"
    if manifest.engines is not None:
        built = manifest.engines
        yield (
            "engines",
            f"{built.library} {built.version} for {built.gpu or ', '.join(built.compute_capabilities)}; "
            f"{built.batch_size} rows of {built.capacity} tokens, chunks of {built.chunk}",
        )
    for sentence in source.repairs:
        yield "repaired", sentence
    yield "tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())
    yield "verdict", _verdict(manifest.parity)
    if manifest.parity and "step_noise" in manifest.parity:
        yield "steps", _step_noise(manifest.parity["step_noise"])
    if report is not None:
        yield "quantized", damage_line(report["damage"])


def _kv_bytes_per_token(manifest: Manifest) -> int:
    model = manifest.model
    return 2 * model.num_layers * model.hidden_size * contract.ITEM_BYTES[manifest.cache_precision]


def _quantization_report(bundle: Bundle) -> dict[str, Any] | None:
    """The report in a quantized bundle, None in a float one."""
    from codegen_edge.bundle.model_config import read_json_object
    from codegen_edge.errors import BundleError

    name = "quantization_report.json"
    return read_json_object(bundle.at(name), BundleError) if name in bundle.manifest.files else None


def _step_noise(noise: dict[str, float | None]) -> str:
    def shown(value: float | None) -> str:
        if value is None:
            return "not to be had"
        return f"logits differ by up to {value:.1e} with the way a text is read" if value else "the same bits"

    return "; ".join(f"{name}: {shown(value)}" for name, value in noise.items())


def _verdict(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "never verified: codegen-edge verify BUNDLE --reference CHECKPOINT"
    comparisons = parity.get("comparisons")
    if not comparisons:
        return str(parity.get("verdict", "unreadable"))
    largest = max(float(comparison["max_abs_error"]) for comparison in comparisons)
    positions = sum(comparison["positions"] for comparison in comparisons)
    other = "" if parity.get("reference", {}).get("is_source", True) else " (against another checkpoint)"
    return f"{parity['verdict']}{other} on {parity['runtime']}: max |Δ| {largest:.1e} over {positions} positions"
