"""Where a completion ends by the CodeGen paper's rule."""

from __future__ import annotations

from typing import Any

from codegen_edge.generation.presets import PAPER_TRUNCATION
from codegen_edge.generation.text import Cut


def paper_truncation() -> dict[str, Any]:
    """The rule as fields of GenerationParams.

    Of the new text alone: it is cut before the second line that starts with `print`, what is left before the second
    one that starts with `def`, and what is left then at the earliest of the terminals: a comment or a triple quote that
    starts a line, the end of text, two empty lines.

    Source: `truncate` in codegen1/jaxformer/hf/sample.py and codegen1/benchmark/mtpb_sample.py of salesforce/CodeGen.
    """
    return dict(PAPER_TRUNCATION)


def truncate(completion: str) -> str:
    """The part of a completion that the rule keeps; the prompt must not be part of it."""
    return completion[: Cut(**paper_truncation()).find(completion)]
