"""MTPB's problems, as its file gives them: prompts with places for inputs, and one output per input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.records import Record, read_records

DEFAULT_MAX_GEN_LENGTH = 256
"""Tokens of a turn where a problem says nothing (ids 39 to 45); the published script's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtpbProblem:
    """A program to write in several turns.

    Attributes:
        id: "1" to "115".
        name, description, category: for readers; no part of a prompt.
        prompts: one template of str.format per turn.
        inputs: what the templates are filled with, one per case.
        outputs: the value that the last print must be given, one per case.
        max_gen_length: the most new tokens of a turn.
    """

    id: str
    name: str
    description: str
    category: str
    prompts: tuple[str, ...]
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Any, ...]
    max_gen_length: int = DEFAULT_MAX_GEN_LENGTH

    def turns(self, case: int) -> list[str]:
        """The prompts of a case, filled with its input."""
        return [prompt.format(**self.inputs[case]) for prompt in self.prompts]


def read_mtpb(path: Path) -> list[MtpbProblem]:
    """The problems of `mtpb.jsonl`, in its order.

    Outputs without an input are left out, as the published script's `zip` does (problem 57 has six for its five).

    Args:
        path: JSON lines, plain or compressed by gzip.

    Raises:
        InvalidInputError: the file cannot be read or holds no problem; a line is malformed, lacks a field or repeats
            a problem; an input has no output; a template does not fit an input.
    """
    problems: dict[str, MtpbProblem] = {}
    for record in read_records(path):
        problem = _problem(record)
        if problem.id in problems:
            raise record.error(f'problem "{problem.id}" is there twice')
        problems[problem.id] = problem
    if not problems:
        raise InvalidInputError(f"{path} holds no problem")
    return list(problems.values())


def _problem(record: Record) -> MtpbProblem:
    inputs, outputs = record.values("inputs"), record.values("outputs")
    if not all(isinstance(each, dict) for each in inputs):
        raise record.error('"inputs" must be a list of objects')
    if len(outputs) < len(inputs):
        raise record.error(f"{len(inputs)} inputs have {len(outputs)} outputs")
    prompts = record.values("prompts")
    if not all(isinstance(each, str) for each in prompts):
        raise record.error('"prompts" must be a list of texts')
    problem = MtpbProblem(
        **{name: record.text(name) for name in ("id", "name", "description", "category")},
        prompts=tuple(prompts),
        inputs=tuple(inputs),
        outputs=tuple(outputs[: len(inputs)]),
        max_gen_length=_max_gen_length(record),
    )
    for case in range(len(inputs)):
        _require_fit(record, problem, case)
    return problem


def _max_gen_length(record: Record) -> int:
    length = record.fields.get("max_gen_length", DEFAULT_MAX_GEN_LENGTH)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise record.error(f'"max_gen_length" must be a whole number above 0, got {length!r}')
    return length


def _require_fit(record: Record, problem: MtpbProblem, case: int) -> None:
    try:
        problem.turns(case)
    except KeyError as exc:
        raise record.error(f"a prompt has a place {exc} that input {case} does not fill") from exc
    except (AttributeError, IndexError, TypeError, ValueError) as exc:
        raise record.error(f"a prompt does not fit input {case} ({exc})") from exc
