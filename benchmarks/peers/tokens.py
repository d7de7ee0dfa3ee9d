"""Whether a system gave the right tokens: float32 equal to the reference, quantized ones by how many agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.workers.protocol import TokenIds

# Logits of two float32 programs differ by 1e-5 here; a margin below this is left to rounding.
NEAR_TIE = 1e-3
# Rounded weights or activations: other tokens are expected of these, and counted.
_ROUNDED = {"bf16", "int8", "int4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What transformers generates in float32.

    Attributes:
        token_ids: of each row.
        margins: of each token, the best logit less the second best.
    """

    token_ids: TokenIds
    margins: list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCheck:
    """What a system's tokens of one workload are worth.

    Attributes:
        equal: share of tokens equal to the reference's, by position, up to the first near tie of a row.
        near_ties: rows that part from the reference where two logits are within NEAR_TIE.
        is_deterministic: whether every round gave the same tokens.
        wrong: why the row is void, or "".
    """

    equal: float
    near_ties: int
    is_deterministic: bool
    wrong: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check_tokens(precision: str, found: Sequence[TokenIds], reference: Reference | None) -> TokenCheck | None:
    """Compare the tokens of every round with the reference.

    Args:
        precision: the system's class.
        found: of each round; at least one.
        reference: None where there is none.
    """
    is_deterministic = all(each == found[0] for each in found)
    if reference is None:
        return None
    equal = compared = near_ties = 0
    wrong = ""
    for number, token_ids in enumerate(found):
        if [len(row) for row in token_ids] != [len(row) for row in reference.token_ids]:
            wrong = wrong or f"{sum(map(len, token_ids))} tokens, {sum(map(len, reference.token_ids))} were wanted"
            continue
        for row, (own, right, margins) in enumerate(
            zip(token_ids, reference.token_ids, reference.margins, strict=True)
        ):
            parts = next((at for at, pair in enumerate(zip(own, right, strict=True)) if pair[0] != pair[1]), None)
            if parts is not None and margins[parts] < NEAR_TIE:
                near_ties += number == 0
                compared += parts
                equal += parts
                continue
            if parts is not None and precision not in _ROUNDED:
                wrong = wrong or (
                    f"token {parts} of row {row} is {own[parts]}, the reference's is {right[parts]} "
                    f"by a margin of {margins[parts]:.1e}"
                )
            compared += len(own)
            equal += sum(a == b for a, b in zip(own, right, strict=True))
    share = equal / compared if compared else 0.0
    return TokenCheck(equal=round(share, 4), near_ties=near_ties, is_deterministic=is_deterministic, wrong=wrong)


def reference_of(answers: Mapping[str, Any]) -> dict[str, Reference]:
    """By workload, from the answer of workers/reference.py."""
    return {name: Reference(**answer) for name, answer in answers.items()}
