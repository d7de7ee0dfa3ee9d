"""Write a checkpoint with random weights, shard by shard: python benchmarks/random_checkpoint.py 2B OUT."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint

TEXTS = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]


@click.command()
@click.argument("size", type=click.Choice(sorted(SHAPES)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float16", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(size: str, out: Path, dtype: str, seed: int) -> None:
    """Write a checkpoint of SIZE to the folder OUT, its small tokenizer trained on this folder's programs."""
    write_random_checkpoint(out, SHAPES[size], seed=seed, dtype=getattr(torch, dtype), texts=TEXTS)
    size_bytes = sum(path.stat().st_size for path in out.iterdir())
    click.echo(f"{out}: {size}, {dtype}, {size_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
