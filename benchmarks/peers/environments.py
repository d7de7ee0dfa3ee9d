"""Make each peer's virtual environment: `python -m benchmarks.peers.environments`, or `make peers`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.peers.peer import PEERS, Peer

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENTS = REPOSITORY / ".venv-peers"
_MOST_REASON = 300  # characters of pip's last words


class NotInstalledError(Exception):
    """A peer's environment is not there; the message says why."""


def python_of(name: str, folder: Path = ENVIRONMENTS) -> Path:
    """The interpreter of a peer's environment.

    Raises:
        NotInstalledError: it was not made, or making it failed.
    """
    if not (folder / name / ".installed").is_file():
        failed = folder / f"{name}.failed"
        why = failed.read_text() if failed.is_file() else "run `make peers`"
        raise NotInstalledError(f"{name} is not installed: {why}")
    return folder / name / "bin" / "python"


def make(peer: Peer, folder: Path = ENVIRONMENTS) -> None:
    """Install a peer where that was not done yet with the same packages.

    Raises:
        NotInstalledError: pip failed.
    """
    environment = folder / peer.name
    stamp, wanted = environment / ".installed", json.dumps(asdict(peer))
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    failed = folder / f"{peer.name}.failed"
    _run(failed, [sys.executable, "-m", "venv", "--clear", str(environment)])
    pip = [str(environment / "bin" / "python"), "-m", "pip"]
    for packages in peer.installs:
        _run(failed, [*pip, "install", "--quiet", *packages])
    if peer.uninstalls:
        _run(failed, [*pip, "uninstall", "--quiet", "--yes", *peer.uninstalls])
    stamp.write_text(wanted)
    failed.unlink(missing_ok=True)


def _run(failed: Path, command: list[str]) -> None:
    """Run one installer; leave its last line in `failed` where it fails."""
    failed.parent.mkdir(exist_ok=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        why = f"`{' '.join(command[1:])}` ended with {done.returncode}: {' '.join(lines)[:_MOST_REASON]}"
        failed.write_text(why)
        raise NotInstalledError(why)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(PEERS)))
def main(names: tuple[str, ...]) -> None:
    """Install the peers that are named, or all. One that cannot be installed is named and stops nothing."""
    for name in names or PEERS:
        click.echo(f"{name}: ", nl=False)
        try:
            make(PEERS[name])
        except NotInstalledError as exc:
            click.echo(f"not installed: {exc}")
        else:
            click.echo(f"installed in {(ENVIRONMENTS / name).relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
