"""The table of environment variables in docs/command-line.md names all that the sources read or set."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ROOMS = ("src", "exporter", "runtimes", "generation", "quantization", "evaluation", "server", "checkpoints")
VARIABLE = re.compile(r'"((?:CODEGEN_EDGE|HF|LLM|NO|ORT|RAY|XDG)_[A-Z_]+)"')


def test_table_names_every_variable() -> None:
    page = (REPOSITORY / "docs" / "command-line.md").read_text().partition("## Environment variables")[2]
    table = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    sources = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    used = {name for path in sources for name in VARIABLE.findall(path.read_text())}
    assert {"XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "LLM_CODEGEN_EDGE_URL", "CODEGEN_EDGE_API_KEY"} <= used
    assert used <= table, used - table
