"""Write the checkpoint that all systems run: random weights of a shape, ids beyond the tokenizer's never the likeliest.

CodeGen's LM head has more rows than the tokenizer has ids. We never choose those, other programs may; and the end of
text would end a generation early in some programs and not in others. Their biases settle both for everybody.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint

_BIAS = "lm_head.bias"
_NEVER = -1e4  # of float16's 65,504
_FIRST_NEVER = 50_256  # CodeGen's end of text; the ids behind it are runs of blanks and padding


@click.command()
@click.argument("shape", type=click.Choice(sorted(SHAPES)))
@click.argument("out", type=click.Path(path_type=Path))
def main(shape: str, out: Path) -> None:
    """Write a float32 checkpoint of SHAPE to the folder OUT."""
    write_random_checkpoint(out, SHAPES[shape], dtype=torch.float32)
    index = out / "model.safetensors.index.json"
    file = json.loads(index.read_text())["weight_map"][_BIAS] if index.is_file() else "model.safetensors"
    tensors = load_file(out / file)
    tensors[_BIAS][_FIRST_NEVER:] = _NEVER
    save_file(tensors, out / file, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
