"""Constraints: which texts a generation may give, by a JSON schema, a regular expression, a choice or a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codegen_edge.registry import load_part

if TYPE_CHECKING:
    from codegen_edge.generation.constraints.compiler import compile_grammar
    from codegen_edge.generation.constraints.followed import FollowedConstraint
    from codegen_edge.generation.constraints.grammar import Grammar
    from codegen_edge.generation.constraints.protocol import Constraint

# Imported at first use: every generation imports the protocol, few compile a grammar.
_HOMES = {
    "Constraint": "protocol",
    "FollowedConstraint": "followed",
    "Grammar": "grammar",
    "compile_grammar": "compiler",
}

__all__ = ["Constraint", "FollowedConstraint", "Grammar", "compile_grammar"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_part(f"{__name__}.{_HOMES[name]}:{name}")
