"""docs/demo.svg, the picture of README: python -m benchmarks.demo_picture.

Runs the commands of `codegen-edge demo` one by one in a temporary folder and draws what they print.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from codegen_edge.cli.demo import CHECKPOINT, PROMPTS

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"
TITLE = "codegen-edge demo"
COLUMNS = 100
MOST_LINES = 6  # of generated text
SAMPLING = ["--max-new-tokens", "64", "--temperature", "0.2", "--top-p", "0.95", "--seed", "1"]
COMMANDS = (
    ["export", CHECKPOINT, "fp32"],
    ["quantize", "fp32", "int8", "--scheme", "int8", "--measure-tokens", "8192"],
    ["quantize", "fp32", "int4", "--scheme", "int4", "--measure-tokens", "8192"],
    ["generate", "fp32", "--prompt", PROMPTS[0], *SAMPLING],
    ["generate", "int4", "--prompt", PROMPTS[2], *SAMPLING],
)
# A picture must fetch nothing: rich's own style names a font by its address.
_FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}\s*")
_FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def shown(arguments: list[str]) -> str:
    """A command as one types it; text of several lines as a shell takes it in $'…'."""
    quoted = [f"$'{each}'".replace("\n", "\\n") if "\n" in each else shlex.quote(each) for each in arguments]
    return f"$ codegen-edge {' '.join(quoted)}"


def output_of(arguments: list[str], folder: Path) -> list[str]:
    """The lines that a command prints: of an export with its table of parity, of a text no more than its beginning."""
    command = [sys.executable, "-m", "codegen_edge.cli", *arguments]
    environment = os.environ | {"COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=True)
    told = done.stderr.strip("\n") + "\n" + done.stdout if arguments[0] == "export" else done.stdout
    lines = [line.rstrip() for line in told.rstrip().splitlines()]
    if arguments[0] != "generate" or len(lines) <= MOST_LINES:
        return lines
    return ["\n".join(lines[:MOST_LINES]).rstrip(), "…"]


def picture() -> str:
    """Run the commands; the SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with tempfile.TemporaryDirectory() as folder:
        for number, arguments in enumerate(COMMANDS):
            print(shown(arguments), flush=True)
            console.print(Text(("\n" if number else "") + shown(arguments), style="bold green"))
            console.print(Text("\n".join(output_of(arguments, Path(folder)))))
    svg = _FONT_FACE.sub("", console.export_svg(title=TITLE, unique_id="demo"))
    svg = svg.replace("Fira Code, monospace", _FONTS).replace("font-family: arial;", "font-family: arial, sans-serif;")
    assert not re.search(r"url\(\W*https?:", svg), "the picture would fetch something"
    return svg


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
