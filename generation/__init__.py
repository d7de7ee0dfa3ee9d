"""The one generation loop, shared by every runtime."""

from codegen_edge.generation.batch import RunningBatch, TokenEvent
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.text import TextAssembler

__all__ = [
    "CancelToken",
    "FinishReason",
    "GenerationLoop",
    "GenerationParams",
    "RunningBatch",
    "TextAssembler",
    "TokenEvent",
]
