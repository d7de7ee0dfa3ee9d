"""What a caller may name as a draft."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.speculation.draft_model import DraftModel
from codegen_edge.generation.speculation.drafter import Drafter
from codegen_edge.generation.speculation.lookup import PromptLookup
from codegen_edge.generation.speculation.policy import Speculator
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


def free_drafts(runtime: Runtime) -> int:
    """Tokens that a step of one row takes along at no cost; see `Runtime`."""
    return int(getattr(runtime, "free_drafts", 0))


def free_speculator(runtime: Runtime) -> Speculator | None:
    """Drafts for the room that a runtime's steps have anyway; None where they have none."""
    count = free_drafts(runtime)
    # One token that came before is enough to look up: a wrong draft costs nothing.
    return Speculator(PromptLookup(shortest=1), most_drafted=count, num_free=count) if count else None


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
