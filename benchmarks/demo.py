"""The main job from start to end, with the very commands that a person would type."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click

FOLDER = Path(".demo")


def run(*arguments: str) -> None:
    """Show a command, then run it."""
    shown = " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)
    click.secho(f"\n$ codegen-edge {shown}", bold=True)
    subprocess.run([sys.executable, "-m", "codegen_edge.cli", *arguments], check=True)


@click.command()
@click.option("--size", default="350M", show_default=True, help="Shape of the checkpoint.")
def main(size: str) -> None:
    """Make a checkpoint with random weights, export it, prove it equal, and generate with it."""
    checkpoint, bundle = FOLDER / f"codegen-{size}-random", FOLDER / "bundle"
    if FOLDER.is_dir():
        shutil.rmtree(FOLDER)
    click.echo(f"writing a checkpoint of the {size} shape (random weights: its text means nothing)")
    script = Path(__file__).with_name("random_checkpoint.py")
    subprocess.run([sys.executable, str(script), size, str(checkpoint), "--dtype", "float32"], check=True)
    run("export", str(checkpoint), str(bundle))
    run("inspect", str(bundle))
    run("generate", str(bundle), "--prompt", "def hello_world():", "--max-new-tokens", "32")
    run("generate", str(bundle), "--prompt", "def hello_world():", "--max-new-tokens", "32", "--json")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as exc:
        sys.exit(exc.returncode)
