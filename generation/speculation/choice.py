"""What a caller may name as a draft."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.speculation.draft_model import DraftModel
from codegen_edge.generation.speculation.drafter import Drafter
from codegen_edge.generation.speculation.lookup import PromptLookup
from codegen_edge.runtimes.runtime import Runtime
from codegen_edge.tokenizer import Tokenizer


class DraftSource(Protocol):
    """A smaller model with the same tokenizer; a `Model` is one."""

    @property
    def runtime(self) -> Runtime:
        """Computes its logits."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""


Draft: TypeAlias = Literal["prompt-lookup"] | DraftSource


def open_drafter(draft: Draft | None, tokenizer: Tokenizer) -> Drafter | None:
    """What drafts for a model with `tokenizer`; None without a draft.

    Raises:
        InvalidInputError: no such draft, or a draft model with another tokenizer.
    """
    if draft is None:
        return None
    if draft == "prompt-lookup":
        return PromptLookup()
    if isinstance(draft, str) or not hasattr(draft, "runtime") or not hasattr(draft, "tokenizer"):
        raise InvalidInputError(f'draft must be "prompt-lookup" or a model, got {draft!r}')
    if draft.tokenizer.fingerprint != tokenizer.fingerprint:
        raise InvalidInputError("the draft model has another tokenizer: its drafts would mean other text")
    return DraftModel(draft.runtime)
