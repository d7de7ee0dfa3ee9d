"""Whether the value that a program printed is the expected one."""

from __future__ import annotations

from codegen_edge.evaluation.tasks.mtpb.published import published_equivalence
from codegen_edge.evaluation.tasks.mtpb.repaired import repaired_equivalence


def equivalent(expected: object, value: object, *, compat: bool = False) -> bool:
    """Compare a printed value with the expected one.

    Args:
        expected: of the data.
        value: as the sandbox rebuilt it: of Python's own types, numpy's, or those of its module `values`.
        compat: whether to judge as the paper's harness does, which passes 568 of the 575 right values of MTPB
            (module `published`). Otherwise all 575 pass (module `repaired` names each difference).
    """
    return published_equivalence(expected, value) if compat else repaired_equivalence(expected, value)
