"""The packages that codegen-edge stands on: how to install them, which versions are meant, which were proved.

The ranges are read from the installed metadata, so pyproject.toml is the only place that states them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from codegen_edge.errors import CodegenEdgeError, IncompatibleVersionError

PROJECT = "codegen-edge"
# What `pip install` takes in README's lines. codegen-edge is on no package index yet, so this names the folder of a
# clone; a release changes it to PROJECT.
INSTALL_SOURCE = "."

EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "safetensors", "huggingface-hub")

_PROVED_FILE = Path(__file__).with_name("proved_versions.json")  # written by `python -m benchmarks.compatibility`
_MOST_MESSAGE = 200  # characters of another library's message that an error of ours repeats


def install_command(*extras: str) -> str:
    """The command that installs what `extras` need, however codegen-edge itself was installed.

    It names the packages, as codegen-edge is on no index; those that are there and fit are left out.
    """
    needed = [requirement for requirement in _requirements() if _is_of(requirement, extras)]
    missing = [requirement for requirement in needed if not _is_met(requirement)] or needed
    if not missing:  # packed without metadata
        return f'pip install "{INSTALL_SOURCE}[{",".join(extras)}]" (in a clone of {PROJECT})'
    named = " ".join(f'"{_without_marker(requirement)}"' for requirement in missing)
    return f"pip install {named} (the extra{'s' if len(extras) > 1 else ''} [{','.join(extras)}] of {PROJECT})"


def _is_of(requirement: Requirement, extras: tuple[str, ...]) -> bool:
    marker = requirement.marker
    return marker is not None and any(marker.evaluate({"extra": extra}) for extra in extras)


def _is_met(requirement: Requirement) -> bool:
    version = installed_version(requirement.name)
    return version is not None and not requirement.extras and requirement.specifier.contains(version, prereleases=True)


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions(*packages: str) -> dict[str, str]:
    """Versions of the distributions among `packages` that are installed, for a manifest or a result.

    "onnxruntime" is also found as onnxruntime-gpu, which holds the same module, and is listed under that name then.
    """
    names = [_onnxruntime_package() if package == "onnxruntime" else package for package in packages]
    versions = {name: installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def _onnxruntime_package() -> str:
    is_for_gpus = installed_version("onnxruntime") is None and installed_version("onnxruntime-gpu") is not None
    return "onnxruntime-gpu" if is_for_gpus else "onnxruntime"


def supported_range(package: str) -> SpecifierSet:
    """The versions of `package` that pyproject.toml admits, of all extras together; empty where it names none."""
    return _ranges().get(canonicalize_name(package), SpecifierSet())


def require_versions(*packages: str) -> None:
    """Check installed versions against the ranges that codegen-edge declares.

    Raises:
        IncompatibleVersionError: one is outside of its range; says both, and the command that changes it.
    """
    for package in packages:
        version, supported = installed_version(package), supported_range(package)
        if version is not None and not supported.contains(version, prereleases=True):
            raise IncompatibleVersionError(
                f"{package} {version} is installed, {PROJECT} works with {package} {supported}: "
                f'pip install "{package}{supported}"'
            )


def proved_versions() -> dict[str, list[str]]:
    """By package, every version with which the main job was run from end to end, oldest first."""
    proved: dict[str, list[str]] = json.loads(_PROVED_FILE.read_text())
    return proved


@contextlib.contextmanager
def incompatible_as_error(what: str, *packages: str) -> Iterator[None]:
    """Turn an exception of another library into IncompatibleVersionError, which names versions.

    A library that changed below us fails in whatever way it likes: TypeError, AttributeError, its own classes.

    Args:
        what: the work that fails, for the message.
        packages: distributions that it needs.

    Raises:
        IncompatibleVersionError: something other than an error of codegen-edge was raised.
    """
    try:
        yield
    except (CodegenEdgeError, OSError, MemoryError):
        raise
    except Exception as exc:
        found = ", ".join(f"{package} {installed_version(package)}" for package in packages)
        proved = proved_versions()
        ranges = "; ".join(
            f"{package} {proved[package][0]} to {proved[package][-1]}" for package in packages if package in proved
        )
        message = " ".join(str(exc).split())[:_MOST_MESSAGE]
        raise IncompatibleVersionError(
            f"{what} failed with {found} ({type(exc).__name__}: {message}). Proved are {ranges}; install one of these "
            f"versions, or report this with the whole traceback"
        ) from exc


def disable_telemetry() -> None:
    """Switch off the telemetry of the libraries that we import, unless the environment says otherwise.

    onnxruntime (from 1.32) writes a database below the user's cache folder and looks up a host of its maker, and
    reads ORT_DISABLE_TELEMETRY while it is imported. A value that the user has set stays: `ORT_DISABLE_TELEMETRY=0`
    opts in.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@cache
def _ranges() -> dict[str, SpecifierSet]:
    ranges: dict[str, SpecifierSet] = {}
    for requirement in _requirements():
        name = canonicalize_name(requirement.name)
        ranges[name] = ranges.get(name, SpecifierSet()) & requirement.specifier
    return ranges


@cache
def _requirements() -> tuple[Requirement, ...]:
    """What pyproject.toml states, of all extras; nothing where we are packed into an application without metadata."""
    try:
        return tuple(map(Requirement, importlib.metadata.requires(PROJECT) or ()))
    except importlib.metadata.PackageNotFoundError:
        return ()
