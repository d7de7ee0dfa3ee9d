"""Speculation: several tokens are drafted, one step computes the logits after all of them, and the row's own choice
decides how many of the drafts are accepted.

The row chooses after every drafted token exactly as it would have without one: from the same logits, with the random
number that belongs to that step. A drafted token is accepted where it is that choice. So no token ever changes, greedy
or sampled, and the distribution is exact without a rule of acceptance; a draft only saves a step.
(Y. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, accept by a ratio of
probabilities instead, which needs other random numbers than plain sampling.)
"""

from codegen_edge.generation.speculation.choice import Draft, free_drafts, free_speculator, open_drafter
from codegen_edge.generation.speculation.draft_model import DraftModel
from codegen_edge.generation.speculation.drafter import Drafter, common_length
from codegen_edge.generation.speculation.lookup import PromptLookup
from codegen_edge.generation.speculation.policy import Speculator
from codegen_edge.generation.speculation.rows import RowsSpeculator, RowText
from codegen_edge.generation.speculation.steps import StepDrafts

__all__ = [
    "Draft",
    "DraftModel",
    "Drafter",
    "PromptLookup",
    "RowText",
    "RowsSpeculator",
    "Speculator",
    "StepDrafts",
    "common_length",
    "free_drafts",
    "free_speculator",
    "open_drafter",
]
