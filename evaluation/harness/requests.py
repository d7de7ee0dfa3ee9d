"""What lm-eval's tasks ask for, in our terms. No import of lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationParams

_AUTO_ROWS = 8
# In lm-eval's order: the first that is given counts.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_FILTERS = ("top_k", "top_p", "min_p", "typical_p")  # of samples; a greedy choice goes without them, as in transformers
_RULES = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size")
_IDLE = {"num_beams": 1}  # allowed where they say what is done anyhow


def rows_of(batch_size: int | str, max_batch_size: int | None = None) -> int:
    """lm-eval's `batch_size` as a number of rows.

    Args:
        batch_size: a number, its digits, or "auto" (also "auto:4"), which takes 8: on a CPU more rows gain nothing.
        max_batch_size: a bound, or None.

    Raises:
        InvalidInputError: something else, or less than 1.
    """
    text = str(batch_size)
    if text.partition(":")[0] == "auto":
        rows = _AUTO_ROWS
    elif text.isascii() and text.isdigit() and int(text) >= 1:
        rows = int(text)
    else:
        raise InvalidInputError(f'batch_size must be a number of at least 1 or "auto", got {batch_size!r}')
    return rows if max_batch_size is None else min(rows, max_batch_size)


def generation_params(gen_kwargs: Mapping[str, Any], max_gen_toks: int, seed: int) -> GenerationParams:
    """A task's `generation_kwargs` as GenerationParams.

    Args:
        gen_kwargs: until, max_gen_toks (or one of its other names), do_sample, temperature, filters and penalties.
            `do_sample: false` is greedy whatever the temperature; `do_sample: true` without one samples at 1.
        max_gen_toks: where none is given.
        seed: of the samples.

    Raises:
        InvalidInputError: an argument that is not known, or a value out of range.
    """
    left = dict(gen_kwargs)
    until = left.pop("until", None) or []
    stop = [until] if isinstance(until, str) else list(until)
    limits = [value for name in _MAX_TOKENS if (value := left.pop(name, None)) is not None]
    do_sample = left.pop("do_sample", None)
    temperature = left.pop("temperature", None)
    if do_sample is False:
        temperature = 0.0
    elif temperature is None:
        temperature = 1.0 if do_sample else 0.0
    known = {name: left.pop(name) for name in (*_FILTERS, *_RULES) if left.get(name) is not None}
    if not temperature:
        known = {name: value for name, value in known.items() if name not in _FILTERS}
    left = {name: value for name, value in left.items() if value is not None and _IDLE.get(name) != value}
    if left:
        given = ", ".join(f"{name}={value!r}" for name, value in left.items())
        raise InvalidInputError(
            f"the task asks for {given}, which is not done here; known are: until, {', '.join(_MAX_TOKENS)}, "
            f"do_sample, temperature, {', '.join((*_FILTERS, *_RULES))}"
        )
    return GenerationParams(
        max_new_tokens=int(limits[0]) if limits else max_gen_toks,
        temperature=float(temperature),
        seed=seed if temperature else None,
        stop=tuple(text for text in stop if text),
        prompt_overflow="cut-left",
        **known,
    )
