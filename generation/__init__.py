"""The one generation loop, shared by every runtime."""

from codegen_edge.generation.batch import RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.output import Completion, RowOutput, TextEvent
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.prefill import Prefill
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import TokenEvent
from codegen_edge.generation.text import TextAssembler

__all__ = [
    "CancelToken",
    "Completion",
    "FinishReason",
    "GenerationLoop",
    "GenerationParams",
    "Prefill",
    "Request",
    "RowOutput",
    "RunningBatch",
    "TextAssembler",
    "TextEvent",
    "TokenEvent",
]
