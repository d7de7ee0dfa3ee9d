"""Every error that codegen-edge raises on purpose, as one tree.

    CodegenEdgeError
    ├── InvalidInputError          an argument, a prompt or an option is wrong
    │   └── ContextLengthError     a prompt does not fit the model's context
    ├── CheckpointError            a checkpoint is missing, incomplete or malformed
    │   ├── UnsafeCheckpointError  a checkpoint wants to run code
    │   └── UnsupportedModelError  a sound checkpoint of a model that we do not export
    ├── BundleError                a bundle is missing, malformed or of another kind
    │   └── IntegrityError         a bundle's bytes are not the bytes that were exported
    ├── NumericsError              weights or logits are NaN or infinite
    ├── RuntimeUnavailableError    the runtime that was asked for cannot be had here
    │   ├── IncompatibleVersionError  a library is too old or too new
    │   └── SandboxUnavailableError  generated programs cannot be run safely here
    ├── BackendError               a runtime failed while it ran
    ├── StorageError               writing failed: disk full, no permission
    ├── HubError                   the hub refused an upload, or could not be reached
    ├── ParityError                a bundle is not equal to its reference
    └── CancelledError             the work was cancelled

Errors of other libraries are mapped into this tree where they enter, with `raise … from exc`.
`exit_code` is what the command line returns: 1 for a difference that was found, 2 for wrong input, 3 for what the
machine lacks, 70 for all others. The command line's table of them is in `cli/ending.py`.
"""

from __future__ import annotations

import re
from typing import Any


class CodegenEdgeError(Exception):
    """Base of every error raised on purpose; its text is one line that says what to do.

    Args:
        message: in the terms of the Python API.
        hint: what the command line adds to it: the command or the flag that helps.
    """

    exit_code = 70

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        # Names out of files and other libraries' messages come with line ends.
        super().__init__(message if message.isprintable() else " ".join(message.split()))
        self.hint = hint


class InvalidInputError(CodegenEdgeError, ValueError):
    """An argument, a prompt or an option is wrong."""

    exit_code = 2


class ContextLengthError(InvalidInputError):
    """A prompt does not fit the model's context."""


class CheckpointError(CodegenEdgeError):
    """A checkpoint is missing, incomplete or malformed."""

    exit_code = 2


class UnsafeCheckpointError(CheckpointError):
    """Loading the checkpoint would run code that it carries."""


class UnsupportedModelError(CheckpointError):
    """A sound checkpoint, but of a model that this toolkit does not export."""


class BundleError(CodegenEdgeError):
    """A bundle is missing, malformed or made for another purpose."""

    exit_code = 2


class IntegrityError(BundleError):
    """A file of a bundle is missing, truncated or altered."""


class NumericsError(CodegenEdgeError):
    """Weights or logits hold NaN or infinity."""

    exit_code = 2


class RuntimeUnavailableError(CodegenEdgeError):
    """The runtime that was asked for cannot be had on this machine; no other one is tried."""

    exit_code = 3


class IncompatibleVersionError(RuntimeUnavailableError):
    """An installed library is of a version that codegen-edge cannot work with."""


class SandboxUnavailableError(RuntimeUnavailableError):
    """Generated programs cannot be run safely on this machine, and were not allowed to run otherwise."""


class BackendError(CodegenEdgeError):
    """A runtime failed while it ran."""

    exit_code = 3


class StorageError(CodegenEdgeError):
    """The result could not be written; what was there before is intact."""

    exit_code = 3


class HubError(CodegenEdgeError):
    """The hub refused an upload, or could not be reached."""

    exit_code = 3


class ParityError(CodegenEdgeError):
    """A bundle is not equal to its reference within the tolerance.

    Args:
        message: as of every error.
        hint: as of every error.
        report: the comparison, a ParityReport, where there is one.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, hint: str = "", report: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class CancelledError(CodegenEdgeError):
    """The work was cancelled before it was done."""

    exit_code = 130


def code_of(error: type[CodegenEdgeError]) -> str:
    """The heading of an error's class in docs/troubleshooting.md: "integrity-error" of IntegrityError."""
    return re.sub("(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def first_line(exc: BaseException) -> str:
    """Of another library's message, for one of ours; the name of its class where it says nothing."""
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
