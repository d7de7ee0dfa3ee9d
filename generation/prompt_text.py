"""From a prompt's text to its ids, in time and memory that the model's context bounds, not the text.

A token has at most `Tokenizer.longest_token` characters. So a text has at least its length divided by that many tokens:
one that cannot fit is refused, and of one that is cut from the left only the end is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import ContextLengthError
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.request import check_number_of_prompts
from codegen_edge.tokenizer import Tokenizer

_LOOKED_AT = 2**16  # characters in which a place to cut at is looked for; code has one in every line
_ENDING = frozenset(" \n")


def encode_prompts(
    texts: Sequence[str], tokenizer: Tokenizer, params: GenerationParams, config: ModelConfig
) -> list[list[int]]:
    """Token ids of each text; of a long one that is to be cut from the left, at least those that will be kept.

    Raises:
        InvalidInputError: no text, too many, or one that is not valid Unicode.
        ContextLengthError: a text cannot fit.
    """
    check_number_of_prompts(len(texts))
    return [tokenizer.encode(_bounded(text, tokenizer, params, config.context_length)) for text in texts]


def least_tokens(text: str, tokenizer: Tokenizer) -> int:
    """How many tokens a text has at least, without reading it."""
    return -(-len(text) // tokenizer.longest_token)


def _bounded(text: str, tokenizer: Tokenizer, params: GenerationParams, context_length: int) -> str:
    """The text, or an end of it whose last ids are those of the whole text."""
    longest = tokenizer.longest_token
    least = least_tokens(text, tokenizer)
    if least <= context_length:
        return text
    if params.prompt_overflow != "cut-left":
        raise ContextLengthError(
            f"the prompt has {len(text):,} characters and at least {least:,} tokens; the model's "
            f"context of {context_length} tokens must also hold what is generated. Shorten it, or cut it with "
            'prompt_overflow="cut-left"'
        )
    # Never less than one token, so that what leaves no room at all is refused with the request.
    kept = max(1, context_length - params.max_new_tokens) * longest
    latest = len(text) - kept
    for place in range(latest, max(0, latest - _LOOKED_AT), -1):
        if _is_boundary(text, place) and not any(_crosses(token, text, place) for token in tokenizer.added_texts):
            return text[place:]
    raise ContextLengthError(
        f"the prompt has {len(text):,} characters, of which {_LOOKED_AT:,} together hold no place where it can be cut "
        f"to the model's context of {context_length} tokens without changing its tokens; shorten it"
    )


def _is_boundary(text: str, place: int) -> bool:
    """Whether no word of byte-level BPE goes across: its tokens before and after do not depend on one another.

    GPT-2 splits a text into contractions ('s, 't, …), letters, numbers and other characters, each kind by itself and
    with one space before it, and white space. A word holds white space only as its beginning, and letters after an
    apostrophe only.
    """
    before, after = text[place - 1], text[place]
    if after in _ENDING:
        return not before.isspace() and before != "\u180e"  # white space to older Unicode
    kinds = (_ascii_kind(before), _ascii_kind(after))
    return None not in kinds and kinds[0] != kinds[1] and before != "'"


def _ascii_kind(character: str) -> str | None:
    """The kind of an ASCII character that is no white space."""
    if not "!" <= character <= "~":
        return None
    if character.isalpha():
        return "letter"
    return "number" if character.isdigit() else "other"


def _crosses(token: str, text: str, place: int) -> bool:
    """Whether an added token, which is found before the text is split, lies across the place."""
    return token in text[max(0, place - len(token) + 1) : place + len(token) - 1]
