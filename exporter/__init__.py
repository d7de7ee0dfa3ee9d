"""Checkpoint to bundle. Importing this package imports torch; the rest of codegen-edge does not need it.

The names under which the CodeGen documentation knows the model stay usable here, on transformers 5:
CodeGenConfig, CodeGenTokenizer, CodeGenTokenizerFast, CodeGenModel, CodeGenForCausalLM.
"""

from codegen_edge.dependencies import EXPORT_PACKAGES, disable_telemetry, require_versions

require_versions(*EXPORT_PACKAGES)
disable_telemetry()

# Not before the versions are known to fit: an import that fails in the middle names neither.
from transformers import CodeGenConfig, CodeGenForCausalLM, CodeGenModel

from codegen_edge.exporter.checkpoint import Checkpoint, open_checkpoint
from codegen_edge.exporter.codegen_tokenizer import CodeGenTokenizer, CodeGenTokenizerFast
from codegen_edge.exporter.export import ExportOptions, export_checkpoint
from codegen_edge.exporter.hub import LocatedCheckpoint, locate_checkpoint
from codegen_edge.exporter.reference import load_reference_model

__all__ = [
    "Checkpoint",
    "CodeGenConfig",
    "CodeGenForCausalLM",
    "CodeGenModel",
    "CodeGenTokenizer",
    "CodeGenTokenizerFast",
    "ExportOptions",
    "LocatedCheckpoint",
    "export_checkpoint",
    "load_reference_model",
    "locate_checkpoint",
    "open_checkpoint",
]
