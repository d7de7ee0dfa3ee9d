"""The bundle that a command is given: its folder, or what to do where a checkpoint was named instead."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from codegen_edge.cli.paths import GivenPath
from codegen_edge.errors import BundleError, InvalidInputError

if TYPE_CHECKING:
    from codegen_edge.generation.model import Model

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


class BundleFolder(GivenPath):
    """A bundle's folder; a checkpoint in its place is an error that shows how to export it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder, which need not exist; raise InvalidInputError for an empty name, BundleError for a checkpoint."""
        path = super().convert(value, param, ctx)
        text = os.fspath(value)
        wants_export = ctx is not None and bool(ctx.params.get("is_exporting"))
        if is_checkpoint(text) and not wants_export:
            can_export = ctx is not None and any(each.name == "is_exporting" for each in ctx.command.params)
            alternative = " (or add --export)" if can_export else ""
            raise BundleError(f"{_described(text)} export it first", hint=f"{export_command(text)}{alternative}")
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The bundles that begin so; where there is none, the shell's own completion of folders leads on."""
        head, tail = os.path.split(incomplete)
        try:
            entries = sorted(os.scandir(head or "."), key=lambda entry: entry.name)
        except OSError:
            entries = []
        found = [os.path.join(head, each.name) for each in entries if each.name.startswith(tail) and _is_bundle(each)]
        return [CompletionItem(path) for path in found] or [CompletionItem(incomplete, type="dir")]


def _is_bundle(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(os.path.join(entry.path, "bundle.json"))


BUNDLE = BundleFolder()


def is_checkpoint(name: str) -> bool:
    """Whether a name is a checkpoint's: a hub id, the one that ships, a folder, an archive."""
    path = Path(name)
    try:
        if path.is_dir():
            return (path / "config.json").is_file() and not (path / "bundle.json").exists()
        if path.exists():
            return name.endswith(_ARCHIVES)
    except (OSError, ValueError):
        return False  # whoever opens it says what is wrong with it
    return _HUB_ID.fullmatch(name) is not None or name == shipped_checkpoint()


def shipped_checkpoint() -> str:
    """The name of the checkpoint in the package."""
    from codegen_edge.cli.demo import CHECKPOINT

    return CHECKPOINT


def _described(name: str) -> str:
    if Path(name).exists():
        return f"{name} is a checkpoint, not a bundle;"
    if name == shipped_checkpoint():
        return f"{name} is the checkpoint that ships, not a bundle;"
    return f"there is no folder {name}; if it is a checkpoint on the hub,"


def export_command(checkpoint: str) -> str:
    """The command that makes a bundle of it, with the arguments in their order."""
    return f"codegen-edge export {shlex.quote(checkpoint)} {shlex.quote(_bundle_name(checkpoint))}"


def exported(checkpoint: str) -> Path:
    """The bundle of a checkpoint below the user's cache folder, exported there where it is not yet: `--export`.

    Raises:
        InvalidInputError: a bundle, or a checkpoint that has no name of its own, a folder or an archive.
    """
    if Path(checkpoint).exists() or not is_checkpoint(checkpoint):
        raise InvalidInputError(
            f"--export takes a hub id such as Salesforce/codegen-350M-mono, or {shipped_checkpoint()}; got {checkpoint}"
        )
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    out = Path(home) / "codegen-edge" / "bundles" / checkpoint.replace("/", "--")
    if (out / "bundle.json").exists():
        return out
    from codegen_edge import workflows
    from codegen_edge.bundle.storage import storage_errors
    from codegen_edge.cli.console import stderr
    from codegen_edge.cli.progress import shown_progress

    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with shown_progress("exporting") as on_stage:
        workflows.export(checkpoint, out, on_stage=on_stage)
    stderr.print(f"exported {checkpoint} to {out}", soft_wrap=True)
    return out


def chosen_runtime(bundle: str | Path, given: str | None) -> str:
    """The runtime that was asked for, or the one that computes the bundle's graph on any machine."""
    if given is not None:
        return given
    from codegen_edge.bundle import open_bundle
    from codegen_edge.runtimes.registry import PROVING_RUNTIMES

    manifest = open_bundle(bundle, check="size").manifest
    if manifest.target == "ort" or manifest.engines is not None:
        return "cpu"
    return PROVING_RUNTIMES[manifest.target]


def report_runtime(model: Model, runtime: str, given: str | None) -> None:
    """Say on stderr which runtime was chosen, where it is another one than usual."""
    if given is None and runtime != "cpu":
        bundle = model.bundle
        click.echo(f"{bundle.path} is a graph for {bundle.manifest.target}: runtime {runtime} runs it", err=True)


def _bundle_name(checkpoint: str) -> str:
    name = Path(checkpoint).name
    for suffix in _ARCHIVES:
        name = name.removesuffix(suffix)
    return f"{name}-bundle" if Path(name).exists() or name == checkpoint else name
