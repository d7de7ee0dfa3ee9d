"""`codegen-edge perplexity`: how well a bundle predicts text."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 file to predict; may be given several times.  [default: the held-out programs that ship]",
)
@click.option("--runtime", default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def perplexity(bundle: Path, texts: tuple[Path, ...], runtime: str, threads: int | None, as_json: bool) -> None:
    """Measure perplexity and bits per byte of BUNDLE, each file by itself, through the KV cache.

    codegen-edge perplexity my-bundle --text my_program.py
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.checkpoints.corpora import load_corpus
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.texts import read_text
    from codegen_edge.evaluation.quality.intervals import shown_interval
    from codegen_edge.evaluation.quality.perplexity import measure_perplexity
    from codegen_edge.runtimes import open_runtime
    from codegen_edge.tokenizer import Tokenizer

    documents = [read_text(path) for path in texts] or [file.text for file in load_corpus("held-out")]
    opened = open_bundle(bundle)
    running = open_runtime(runtime, opened, threads=threads)
    try:
        with stderr.status("predicting") as status:
            result = measure_perplexity(
                running,
                Tokenizer(opened.tokenizer_path),
                documents,
                on_progress=lambda done: status.update(f"predicting: {done} of {len(documents)} texts"),
            )
    finally:
        running.close()
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        stdout.print(
            f"perplexity {result.perplexity:.3f}{shown_interval(result.perplexity_interval, '.3f')} per token, "
            f"{result.bits_per_byte:.4f}{shown_interval(result.bits_per_byte_interval, '.4f')} bits per byte, over "
            f"{result.num_tokens:,} tokens of {result.num_documents} texts ({result.num_bytes:,} bytes)"
        )
