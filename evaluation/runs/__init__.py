"""A run of a task: samples and verdicts in a folder that survives every interruption, each made exactly once."""

from codegen_edge.evaluation.runs.configuration import Configuration, Settings
from codegen_edge.evaluation.runs.execution import Judge
from codegen_edge.evaluation.runs.folder import RunFolder
from codegen_edge.evaluation.runs.records import SampleLine, VerdictLine
from codegen_edge.evaluation.runs.results import scored
from codegen_edge.evaluation.runs.sampling import ModelSampler, Sampler, Work, require_fingerprint

__all__ = [
    "Configuration",
    "Judge",
    "ModelSampler",
    "RunFolder",
    "SampleLine",
    "Sampler",
    "Settings",
    "VerdictLine",
    "Work",
    "require_fingerprint",
    "scored",
]
