"""Measure the peers beside us: `python -m benchmarks.peers`, or `make bench-peers`; `make peers` installs them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.artifacts import Artifacts, ConversionError
from benchmarks.peers.run import Settings, run
from benchmarks.peers.system import GROUPS
from benchmarks.peers.worker_process import REPOSITORY
from benchmarks.peers.workload import DEFAULT, QUICK, parse_all
from benchmarks.tables.peers import lines_of
from codegen_edge.bundle.storage import replace_file

RESULTS = REPOSITORY / "benchmarks" / "results"
MODELS = REPOSITORY / ".peers"


@click.command()
@click.option("--quick", is_flag=True, help="Two rounds of short workloads, to see that everything runs.")
@click.option("--shape", default="350M", show_default=True, help="Of benchmarks.random_checkpoint; 2B where it fits.")
@click.option("--groups", default=",".join(GROUPS), show_default=True, help="Precisions, with commas; may be empty.")
@click.option("--workloads", help="For all groups instead of their own, as 128+64,8x128+16,128+32@1.")
@click.option("--only", default="", help="Systems whose names hold one of these, with commas, and our first.")
@click.option("--rounds", type=click.IntRange(min=2), help="[default: 3, or 2 with --quick]")
@click.option("--threads", default=2, show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=MODELS, help="Converted models are kept there.")
@click.option(
    "--export-rounds", type=click.IntRange(min=0), help="Of exports beside optimum's.  [default: 2, or 0 with --quick]"
)
@click.option("--roofline/--no-roofline", default=None, help="Share of the roofline.  [default: not with --quick]")
@click.option(
    "--fresh", is_flag=True, help="Nothing of an earlier run stays.  [default: what is not measured again stays]"
)
@click.option("--out", type=click.Path(path_type=Path), help="[default: benchmarks/results, or MODELS with --quick]")
def main(
    quick: bool,
    groups: str,
    workloads: str | None,
    rounds: int | None,
    models: Path,
    export_rounds: int | None,
    roofline: bool | None,
    out: Path | None,
    fresh: bool,
    only: str,
    **settings: Any,
) -> None:
    """Run every system in interleaved rounds, print the tables and write the result."""
    presets = QUICK if quick else DEFAULT
    name = "peers.json" if settings["shape"] == "350M" else f"peers-{settings['shape']}.json"
    path = out or (models / "quick.json" if quick else RESULTS / name)
    earlier: Mapping[str, Any] = {} if fresh or not path.is_file() else json.loads(path.read_bytes())
    last: Mapping[str, Any] = {}

    def save(result: Mapping[str, Any]) -> None:
        nonlocal last
        last = result
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, f"{json.dumps(result, indent=2)}\n".encode())

    try:
        chosen = Settings(
            workloads={
                name: parse_all(workloads) if workloads else presets.get(name, ())
                for name in filter(None, groups.split(","))
            },
            rounds=rounds or (2 if quick else 3),
            export_rounds=(0 if quick else 2) if export_rounds is None else export_rounds,
            has_roofline=not quick if roofline is None else roofline,
            is_quick=quick,
            only=only.split(",") if only else (),
            **settings,
        )
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    artifacts = Artifacts(models / chosen.shape, chosen.shape, on_make=lambda name: _say(f"making {name}"))
    try:
        run(chosen, artifacts, earlier=earlier, say=_say, save=save)
    except ConversionError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo("\n".join(["", *lines_of(last), "", f"written to {path}"]))


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


if __name__ == "__main__":
    main()
