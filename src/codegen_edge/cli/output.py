"""The one convention of `--json`: results go to stdout, as one object or one object per line; all else to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from codegen_edge.errors import InvalidInputError

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


def print_json(fields: Mapping[str, Any]) -> None:
    """Print an object in one line, and give it out at once: a reader may wait for it."""
    click.echo(json.dumps(fields, ensure_ascii=False))


def check_report(path: Path) -> None:
    """Raise InvalidInputError where no file can be written at `path`, before the work that it would hold."""
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"{path.absolute().parent} is not a folder; make it first")
    if path.exists() and not path.is_file():
        raise InvalidInputError(f"{path} is no regular file; give another one")
