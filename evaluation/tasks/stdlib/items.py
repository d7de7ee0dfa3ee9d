"""Which ends of lines the task asks for: a fixed number of each kind, spread over the held-out programs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from codegen_edge.checkpoints.corpora import SourceFile
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.stdlib.candidates import KINDS, Candidate, Kind, candidates
from codegen_edge.evaluation.tasks.task import Item, Turn

COUNTS: dict[Kind, int] = {"name": 40, "bracket": 40, "return": 20}
"""Items of each kind; programs return few values that they have named before."""

MAX_NEW_TOKENS = 24
"""Of a completion; every answer has fewer."""


def stdlib_items(programs: Sequence[SourceFile]) -> list[Item]:
    """The items, "stdlib/name/0" and so on, kinds mixed so that the first ones stand for all.

    Every program gives one line of a kind before any gives a second one. Which one it gives first is decided by a hash,
    so that neighbours of a line have no part in it. No line of a program is asked for twice, nor one that reads the
    same.

    Args:
        programs: the held-out corpus.

    Raises:
        InvalidInputError: they hold too few candidates of a kind.
    """
    found = {program.path: candidates(program.text) for program in sorted(programs, key=lambda each: each.path)}
    taken: set[tuple[str, str]] = set()
    items: list[tuple[float, Item]] = []  # each with its place among those of its kind, in 0…1
    for kind in reversed(KINDS):  # the rarest first: a line may be a candidate of several kinds
        by_program = {path: _ordered(path, each, kind) for path, each in found.items()}
        chosen = _spread(by_program, COUNTS[kind], taken)
        if len(chosen) < COUNTS[kind]:
            raise InvalidInputError(f"the programs hold {len(chosen)} lines of kind {kind}, {COUNTS[kind]} are needed")
        items += [(number / len(chosen), _item(candidate, number)) for number, candidate in enumerate(chosen)]
    return [item for _, item in sorted(items, key=lambda placed: placed[0])]


def _ordered(path: str, found: Sequence[Candidate], kind: Kind) -> list[Candidate]:
    """A program's candidates of a kind, in the order of a hash."""

    def place(candidate: Candidate) -> bytes:
        return hashlib.sha256(f"{path}:{candidate.row}".encode()).digest()

    return sorted((each for each in found if each.kind == kind), key=place)


def _spread(by_program: Mapping[str, Sequence[Candidate]], count: int, taken: set[tuple[str, str]]) -> list[Candidate]:
    """`count` candidates, one of each program by turns; the lines of those chosen are added to `taken`."""
    chosen: list[Candidate] = []
    waiting = {path: iter(queue) for path, queue in by_program.items()}
    while waiting and len(chosen) < count:
        for path, queue in list(waiting.items()):
            fresh = next((each for each in queue if (path, each.line) not in taken), None)
            if fresh is None:
                del waiting[path]
            elif len(chosen) < count:
                taken.add((path, fresh.line))
                chosen.append(fresh)
    return chosen


def _item(candidate: Candidate, number: int) -> Item:
    return Item(
        task_id=f"stdlib/{candidate.kind}/{number}",
        turns=(Turn(text=candidate.prompt, max_new_tokens=MAX_NEW_TOKENS),),
        reference=candidate.answer,
        gold=(candidate.answer,),
    )
