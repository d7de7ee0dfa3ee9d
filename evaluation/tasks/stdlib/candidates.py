"""Ends of lines in a program that a small model can complete: all that they hold was seen before.

Three kinds, each cut where the rest of the line is what is asked for:
- "name": the line ends with a name that the prompt holds already, and what closes the line;
- "bracket": the line ends with brackets that close what the same line opened, after a name or a number (a quote or a
  bracket before the cut would often be one token with what follows);
- "return": the value of a `return`, which the prompt holds already as it stands.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["name", "bracket", "return"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MOST_PIECES = 400
"""Of a prompt: at most about so many tokens, so that a context of 512 leaves room. The rule knows no tokenizer."""

_PIECE = re.compile(r"[A-Za-z]{1,4}|\s+|[^A-Za-z\s]")
_FIRST_ROW = 8  # lines above it that a prompt has at least
_SHORTEST_NAME = 3
_TOO_EASY = frozenset({"self", "cls"})
_MOST_ANSWER_PIECES = 12
_LEAST_SIGHTINGS = 2  # of a name or a returned value: what was seen once is often not what comes next

_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_CLOSERS = frozenset(_CLOSED_BY.values())
_LINE_ENDS = _CLOSERS | {":", ","}
_LAYOUT = frozenset({tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An end of a line.

    Attributes:
        kind: which rule found it.
        row: its line's number in the program, from 1.
        prompt: whole lines before it and the beginning of its own.
        answer: the rest of the line, without blanks around it.
    """

    kind: Kind
    row: int
    prompt: str
    answer: str

    @property
    def line(self) -> str:
        """How the whole line reads, without its indentation."""
        return self.prompt.rpartition("\n")[2].lstrip() + self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """What lies on one row: a token of Python, or a string with all that is formatted in it."""

    text: str
    is_name: bool
    end: int


def candidates(program: str) -> list[Candidate]:
    """All ends of lines in `program` that one of the rules finds, in its order; a line may have several.

    Args:
        program: Python that parses. Lines with comments and lines of multi-line strings are passed over.
    """
    lines = _Lines(program)
    found: list[Candidate] = []
    for row, tokens in _rows(program).items():
        if row > _FIRST_ROW:
            found += _of_row(lines, row, tokens)
    return [each for each in found if each.answer and count_pieces(each.answer) <= _MOST_ANSWER_PIECES]


def count_pieces(text: str) -> int:
    """About how many tokens a text has: letters by fours, runs of blanks, every other character by itself."""
    return len(_PIECE.findall(text))


class _Lines:
    """The lines of a program, and the prompts that end in one of them."""

    def __init__(self, program: str) -> None:
        self._lines = list(io.StringIO(program))  # by "\n" alone, as the tokens' rows
        self._num_pieces = [count_pieces(line) for line in self._lines]

    def text(self, row: int) -> str:
        """The line without the blanks at its end; `row` counts from 1."""
        return self._lines[row - 1].rstrip()

    def prompt(self, row: int, end: int) -> str:
        """The row's first `end` characters, and as many whole lines before it as fit."""
        beginning = self._lines[row - 1][:end]
        first, num_pieces = row - 1, count_pieces(beginning)
        while first and num_pieces + self._num_pieces[first - 1] <= MOST_PIECES:
            first -= 1
            num_pieces += self._num_pieces[first]
        return "".join(self._lines[first : row - 1]) + beginning


def _of_row(lines: _Lines, row: int, tokens: Sequence[_Token]) -> Iterator[Candidate]:
    line = lines.text(row)
    num_inner = len(tokens)
    while num_inner and tokens[num_inner - 1].text in _LINE_ENDS:
        num_inner -= 1
    if num_inner < 2:
        return
    inner, tail = tokens[:num_inner], tokens[num_inner:]

    def cut_after(kind: Kind, token: _Token) -> Candidate:
        return Candidate(kind=kind, row=row, prompt=lines.prompt(row, token.end), answer=line[token.end :].strip())

    if inner[0].text == "return":
        returned = cut_after("return", inner[0])
        if any(each.is_name for each in inner) and _is_known(returned.answer, returned.prompt):
            yield returned
    elif inner[-1].is_name and len(inner[-1].text) >= _SHORTEST_NAME and inner[-1].text not in _TOO_EASY:
        named = cut_after("name", inner[-2])
        if _is_known("." * (inner[-2].text == ".") + inner[-1].text, named.prompt):
            yield named
    closers = [each.text for each in tail if each.text in _CLOSERS]
    if len(closers) >= 2 and inner[-1].text[-1].isalnum() and _left_open(inner)[: len(closers)] == closers:
        yield cut_after("bracket", inner[-1])


def _left_open(tokens: Sequence[_Token]) -> list[str]:
    """The brackets that would close what the tokens left open, innermost first."""
    closing: list[str] = []
    for token in tokens:
        if token.text in _CLOSED_BY:
            closing.insert(0, _CLOSED_BY[token.text])
        elif token.text in _CLOSERS and closing:
            closing.pop(0)
    return closing


def _is_known(expression: str, text: str) -> bool:
    """Whether an expression stands in a text often enough, and not as a part of a longer name.

    A name is no attribute of the same name: `.name` is asked for as that.
    """
    if text.count(expression) < _LEAST_SIGHTINGS:
        return False
    before = "" if expression.startswith(".") else r"(?<![\w.])"
    return len(re.findall(rf"{before}{re.escape(expression)}(?!\w)", text)) >= _LEAST_SIGHTINGS


def _rows(program: str) -> dict[int, list[_Token]]:
    """The tokens of each row, without rows of multi-line strings and rows with a comment."""
    rows: dict[int, list[_Token]] = {}
    skipped: set[int] = set()
    for token in _whole_strings(program):
        first, last = token.start[0], token.end[0]
        if token.type == tokenize.COMMENT:
            skipped.add(first)
        elif token.type not in _LAYOUT:
            if first != last:
                skipped.update(range(first, last + 1))
            is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            rows.setdefault(first, []).append(_Token(text=token.string, is_name=is_name, end=token.end[1]))
    return {row: tokens for row, tokens in rows.items() if row not in skipped}


def _whole_strings(program: str) -> Iterator[tokenize.TokenInfo]:
    """Python's tokens, each formatted string as one of them, as it is before Python 3.12."""
    begin, end = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    starts: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(program).readline):
        if token.type == begin:
            starts.append(token)
        elif token.type == end:
            start = starts.pop()
            if not starts:
                yield tokenize.TokenInfo(tokenize.STRING, start.string, start.start, token.end, start.line)
        elif not starts:
            yield token
