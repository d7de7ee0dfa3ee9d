"""The bundle on disk: its contract, its manifest, opening one, writing one."""

from codegen_edge.bundle.file_check import CHECKS, Check
from codegen_edge.bundle.manifest import (
    CURRENT_GPU,
    ENGINE_FILES,
    TOKENIZER_FILE,
    Engines,
    FileRecord,
    Manifest,
    Phase,
    Source,
)
from codegen_edge.bundle.opened import Bundle, open_ahead, open_bundle

__all__ = [
    "CHECKS",
    "CURRENT_GPU",
    "ENGINE_FILES",
    "TOKENIZER_FILE",
    "Bundle",
    "Check",
    "Engines",
    "FileRecord",
    "Manifest",
    "Phase",
    "Source",
    "open_ahead",
    "open_bundle",
]
