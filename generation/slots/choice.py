"""Which batch of slots a runtime gets."""

from __future__ import annotations

from codegen_edge.generation.batch import OnRead, OnRowError
from codegen_edge.generation.slots.protocol import SlotBatch
from codegen_edge.generation.slots.ragged import RaggedBatch
from codegen_edge.generation.slots.sliced import SlicedBatch
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import Runtime


def slot_batch(
    runtime: Runtime,
    *,
    slots: int,
    num_allowed_ids: int | None = None,
    capacity: int | None = None,
    speculator: Speculator | None = None,
    on_row_error: OnRowError | None = None,
    on_read: OnRead | None = None,
) -> SlotBatch:
    """A batch of `slots` rows: with prompts in the same run as rows that decode where the runtime can do that."""
    make = RaggedBatch if getattr(runtime, "runs_ragged", False) else SlicedBatch
    return make(
        runtime,
        slots=slots,
        num_allowed_ids=num_allowed_ids,
        capacity=capacity,
        speculator=speculator,
        on_row_error=on_row_error,
        on_read=on_read,
    )
