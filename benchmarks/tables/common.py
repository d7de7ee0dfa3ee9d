"""What all tables share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    fields: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return fields


def nothing_yet(name: str, command: str) -> list[str]:
    """What stands in a page until a result is committed; empty where it is."""
    return [] if (RESULTS / name).is_file() else [f"There is no result yet: `{command}` measures it."]


def processor(machine: dict[str, Any]) -> str:
    features = [name for name, is_there in machine["features"].items() if is_there]
    vnni = "with VNNI" if any("vnni" in name for name in features) else "no VNNI"
    return f"{machine['cores']} cores, {machine['processor']} ({', '.join(features)}; {vnni})"
