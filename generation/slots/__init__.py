"""Rows in a fixed number of slots, for a server: prompts are read beside rows that decode, without stopping them."""

from codegen_edge.generation.slots.choice import slot_batch
from codegen_edge.generation.slots.protocol import Prefix, SlotBatch
from codegen_edge.generation.slots.ragged import RaggedBatch
from codegen_edge.generation.slots.sliced import SlicedBatch
from codegen_edge.generation.slots.times import StepTimes

__all__ = ["Prefix", "RaggedBatch", "SlicedBatch", "SlotBatch", "StepTimes", "slot_batch"]
