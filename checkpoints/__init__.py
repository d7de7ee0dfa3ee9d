"""The small trained checkpoint that ships with us, and the texts that it was not trained on."""

from __future__ import annotations

from pathlib import Path

SHIPPED = ("codegen-5M-mono",)


def shipped_checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint that ships with us, or None where no such one does."""
    return Path(__file__).resolve().parent / name if name in SHIPPED else None
