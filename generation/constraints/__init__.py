"""Constraints: which texts a generation may give, by a JSON schema, a regular expression, a choice or a grammar."""

from codegen_edge.generation.constraints.compiler import compile_grammar
from codegen_edge.generation.constraints.followed import FollowedConstraint
from codegen_edge.generation.constraints.grammar import Grammar
from codegen_edge.generation.constraints.protocol import Constraint

__all__ = ["Constraint", "FollowedConstraint", "Grammar", "compile_grammar"]
