"""The JSON files of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codegen_edge.bundle.model_config import read_json_object
from codegen_edge.errors import CheckpointError
from codegen_edge.strict_json import parse_object


def read_strict_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, which every reader takes alike.

    Raises:
        CheckpointError: it is missing, too large or no JSON; a key is there twice.
    """
    read_json_object(path, CheckpointError)  # bounds its size, and says what is wrong with it
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read as JSON: {exc}") from exc
