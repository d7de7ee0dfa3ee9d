"""What the page's script shows side by side: prompts, references and the samples that were kept, within a bound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from codegen_edge.evaluation.report.json_fields import cleaned
from codegen_edge.evaluation.report.markup import Markup
from codegen_edge.evaluation.report.results import KeptSample, Run, natural_order

MOST_PAYLOAD_BYTES = 9_000_000  # the page as a whole stays below 15 MB
_LONGEST_TEXT = 8_000  # characters; halved until all texts fit
_SHORTEST_TEXT = 125
# Characters that could end a script element or start markup, in a form that JSON reads as the same.
_SAFE = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The data of the script.

    Args:
        json: safe inside of a script element.
        longest_text: characters after which texts were cut; None where none was.
    """

    json: Markup
    longest_text: int | None


@dataclass(slots=True, kw_only=True)
class _Texts:
    """Every text once; samples of a quantized bundle are often those of the original."""

    longest: int
    is_any_cut: bool = False
    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        num_left_out = len(text) - self.longest
        text = cleaned(text[: self.longest])
        if num_left_out > 0:
            self.is_any_cut = True
            text += f"\n… {num_left_out:,} more characters are not in this report"
        return self.places.setdefault(text, len(self.places))


def payload(runs: Sequence[Run], *, most_bytes: int = MOST_PAYLOAD_BYTES) -> Payload:
    """The data of the script, with texts cut as far as needed to stay below `most_bytes`.

    Where even the shortest texts are too many, the last problems have no texts.
    """
    longest = _LONGEST_TEXT
    while True:
        texts = _Texts(longest=longest)
        data = _encoded(runs, texts)
        if len(data.encode()) <= most_bytes or longest <= _SHORTEST_TEXT:
            break
        longest = max(_SHORTEST_TEXT, longest // 2)
    if len(data.encode()) > most_bytes:
        data = _without_texts(data, most_bytes)
    return Payload(json=Markup(data), longest_text=longest if texts.is_any_cut else None)


def _encoded(runs: Sequence[Run], texts: _Texts) -> str:
    problems: dict[tuple[str, str], dict[str, Any]] = {}  # JSON
    for number, run in enumerate(runs):
        for task_id, tally in run.tallies.items():
            one = problems.setdefault((run.task, task_id), {"task": run.task, "id": task_id, "samples": {}})
            one["samples"][number] = [_sample(each, texts) for each in tally.kept]
            known = run.problems.get(task_id)
            if known is not None and "prompt" not in one:
                one["prompt"], one["reference"] = texts.place(known.prompt), texts.place(known.reference)
    ordered = sorted(problems.values(), key=lambda one: (one["task"], natural_order(one["id"])))
    return _dumped({"runs": [{"label": run.label} for run in runs], "problems": ordered, "texts": list(texts.places)})


def _sample(sample: KeptSample, texts: _Texts) -> dict[str, Any]:
    return {
        "sample": sample.sample,
        "passed": sample.passed,
        "kind": sample.kind,
        "message": sample.message,
        "turns": [texts.place(turn) for turn in sample.turns],
        "tokens": sample.num_tokens,
        "finish": sample.finish_reason,
    }


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_SAFE)


def _without_texts(data: str, most_bytes: int) -> str:
    """Empty the last texts until the rest fits."""
    value = json.loads(data)
    excess = len(data.encode()) - most_bytes
    texts: list[str] = value["texts"]
    for at in reversed(range(len(texts))):
        if excess <= 0:
            break
        excess -= len(_dumped(texts[at]).encode()) - len(_dumped(_LEFT_OUT).encode())
        texts[at] = _LEFT_OUT
    return _dumped(value)


_LEFT_OUT = "(not in this report, which is bounded)"
