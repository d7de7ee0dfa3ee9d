"""What a server's batch costs beside its steps: python -m benchmarks.slots.

Rows that leave and join a batch of fixed slots, over KV buffers of the 350M shape and 500 tokens per row; the growth
from 8 to 16 rows of a batch without slots; and the choice of the next tokens of 8 rows. No model is needed: keys,
values and logits are random.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe_machine
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.exporter.random_checkpoint import SHAPES
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers

RESULT = Path(__file__).parent / "results" / "slots.json"
ROWS, TOKENS, CAPACITY, ROUNDS = 8, 500, 640, 15
SAMPLED = GenerationParams(temperature=0.2, top_p=0.95, seed=1)  # CodeGen's own sampling (sample.py)
GREEDY = GenerationParams()


def config() -> ModelConfig:
    """The 350M shape."""
    shape = SHAPES["350M"]
    return ModelConfig(
        vocab_size=shape.vocab_size,
        context_length=shape.n_positions,
        num_layers=shape.n_layer,
        num_heads=shape.n_head,
        head_dim=shape.n_embd // shape.n_head,
        rotary_dim=shape.rotary_dim,
        inner_size=4 * shape.n_embd,
        eos_token_id=0,
    )


def filled(rows: int) -> KVBuffers:
    """A cache of rows of TOKENS tokens."""
    cache = KVBuffers(config(), rows, CAPACITY, np.float32)
    for buffer in cache.buffers.values():
        values = np.random.default_rng(0).random((rows, *buffer.shape[1:]), np.float32)
        buffer.write(values)
    cache.lengths[:] = TOKENS
    return cache


def milliseconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure_slots() -> dict[str, Any]:
    """A row leaves from the front and another joins, in slots; and the growth from 8 to 16 rows without them."""
    slots = filled(1)
    slots.reserve(ROWS)
    for _ in range(ROWS - 1):
        slots.join(filled(1))
    addresses = [buffer.address for buffer in slots.buffers.values()]
    fill_gap = [ROWS - 1, *range(1, ROWS - 1)]
    leaves, joins, grows = [], [], []
    for _ in range(ROUNDS):
        leaves.append(milliseconds(lambda: slots.select(fill_gap)))
        newcomer = filled(1)
        joins.append(milliseconds(lambda newcomer=newcomer: slots.join(newcomer)))  # type: ignore[misc]
    assert [buffer.address for buffer in slots.buffers.values()] == addresses, "the buffers grew"
    for _ in range(3):
        growing, newcomer = filled(ROWS), filled(1)
        grows.append(milliseconds(lambda growing=growing, newcomer=newcomer: growing.join(newcomer)))  # type: ignore[misc]
    return {"leave_ms": spread(leaves), "join_ms": spread(joins), "join_that_grows_8_to_16_ms": spread(grows)}


def measure_choice() -> dict[str, Any]:
    """Choosing the next tokens of 8 rows from logits like a trained model's: few large, many small."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.5, (ROWS, config().vocab_size)).astype(np.float32)
    logits[:, :40] += np.linspace(12, 2, 40, dtype=np.float32)
    results = {}
    for name, params in (("greedy", GREEDY), ("temperature 0.2, top-p 0.95", SAMPLED)):
        choosers = [TokenChooser(params, config().vocab_size) for _ in range(ROWS)]

        def choose(choosers: list[TokenChooser] = choosers) -> None:
            for chooser, row in zip(choosers, logits, strict=True):
                chooser.choose(row)

        choose()
        results[name] = spread([milliseconds(choose) for _ in range(ROUNDS)])
    return results


@click.command()
def main() -> None:
    """Write benchmarks/results/slots.json."""
    result = {
        "machine": describe_machine(),
        "rows": ROWS,
        "tokens": TOKENS,
        "slots": measure_slots(),
        "choice_of_8_rows_ms": measure_choice(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps({name: result[name] for name in ("slots", "choice_of_8_rows_ms")}, indent=2))


if __name__ == "__main__":
    main()
