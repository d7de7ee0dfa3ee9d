"""Serve several prompts in one `RunningBatch`: rows join while others decode, and one is cancelled.

The bundle may be the one that `examples/export_and_generate.py` writes:

    python examples/batch_with_cancellation.py my-bundle
"""

from __future__ import annotations

import sys
from collections import deque

import codegen_edge
from codegen_edge.generation import CancelToken, GenerationParams, Prefill, Request, RowOutput, RunningBatch

PROMPTS = (
    "def read_lines(path):\n    ",
    "class Stack:\n    def __init__(self):\n        ",
    "import os\nimport sys\n\ndef main(",
    "def is_empty(path):\n    ",
)
SLOTS = 2  # rows that decode together; further prompts wait
CAPACITY = 256  # tokens of a row, prompt included: memory for SLOTS * CAPACITY tokens is taken once
PREFILL_SECONDS = 0.005  # a long prompt is read in pieces of about this time, and delays the other rows no longer
CANCELLED_ROW, CANCELLED_AFTER = 1, 8  # this row's client hangs up after so many tokens


def main(bundle: str) -> None:
    """Generate for all prompts; print what happens to each row.

    Args:
        bundle: a folder for text generation.
    """
    with codegen_edge.load_model(bundle) as model:
        config, num_ids = model.runtime.config, model.tokenizer.vocab_size
        params = GenerationParams(max_new_tokens=32)
        batch = RunningBatch(model.runtime, num_allowed_ids=num_ids, capacity=CAPACITY, slots=SLOTS)
        waiting = deque(PROMPTS)
        prefill: Prefill | None = None
        outputs: dict[int, RowOutput] = {}
        cancels: dict[int, CancelToken] = {}
        while waiting or prefill or batch.rows:
            if waiting and prefill is None and batch.free_slots:
                token_ids, cancel = model.tokenizer.encode(waiting.popleft()), CancelToken()
                prefill = batch.begin(Request.of([token_ids], params, config, num_ids), cancel=cancel)
                (row,) = prefill.rows
                outputs[row] = RowOutput(model.tokenizer, params, config.eos_token_id, len(token_ids))
                cancels[row] = cancel
            if prefill is not None and batch.advance(prefill, seconds=PREFILL_SECONDS):
                print(f"row {prefill.first_row} joins; rows of the batch: {batch.rows}")
                prefill = None
            for event in batch.step():
                output = outputs[event.row]
                output.add(event)
                if output.is_stopped:  # by a stop string or a truncation rule, of which the batch knows nothing
                    batch.finish(event.row)
                if event.row == CANCELLED_ROW and len(output.token_ids) == CANCELLED_AFTER:
                    cancels[event.row].cancel()  # from any thread; the other rows go on
                if output.finish_reason is not None:
                    print(f"row {event.row} leaves: {output.finish_reason}, {len(output.token_ids)} new tokens")
        for row, output in outputs.items():
            print(f"--- row {row}")
            print(PROMPTS[row] + output.completion().text)


if __name__ == "__main__":
    main(*sys.argv[1:])
