"""The forms of the model that the systems read, each converted by its own program from one random checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import python_of
from benchmarks.peers.worker_process import ENVIRONMENT, REPOSITORY
from codegen_edge.machine import processor_features

_MOST_REASON = 300  # characters of a converter's last words
_STAMP = "conversion.json"  # beside the artifact's folder, under its name

# What writes our bundles.
_SOURCES = ("exporter", "quantization", "src/codegen_edge/bundle", "src/codegen_edge/workflows")
# By program of an artifact's name.
_ENVIRONMENTS = {"optimum": "optimum-onnx", "openvino": "openvino", "ctranslate2": "ctranslate2"}

OPTIMUM_WITHOUT_CHECK = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], sys.argv[2], task="text-generation-with-past", do_validation=False)
"""


class ConversionError(Exception):
    """A model could not be converted."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion took: the whole command, with its program's start."""

    seconds: float
    peak_rss_bytes: int


Paths = Callable[[str], Path]


def command_of(artifact: str, source: Paths, out: Path) -> list[str]:
    """The command that makes an artifact.

    Args:
        artifact: its name.
        source: gives the folder of another artifact, which is made first.
        out: the folder to write.

    Raises:
        NotInstalledError: the program that makes it is not there.
    """
    program, _, precision = artifact.partition("-")
    if program == "ours":
        return _ours(precision, source, out)
    if program == "optimum" and precision == "int8":
        kind = "--avx512_vnni" if processor_features()["avx512_vnni"] else "--avx2"
        quantize = [_tool("optimum-onnx", "optimum-cli"), "onnxruntime", "quantize", kind]
        return [*quantize, "--onnx_model", str(source("optimum-fp32")), "--output", str(out)]
    checkpoint = str(source("checkpoint"))
    if program == "optimum":
        export = [_tool("optimum-onnx", "optimum-cli"), "export", "onnx", "--task", "text-generation-with-past"]
        return [*export, "--model", checkpoint, str(out)]
    if program == "openvino":
        export = [_tool("openvino", "optimum-cli"), "export", "openvino", "--task", "text-generation-with-past"]
        return [*export, "--weight-format", precision, "--model", checkpoint, str(out)]
    assert program == "ctranslate2", artifact
    convert = [_tool("ctranslate2", "ct2-transformers-converter"), "--model", checkpoint, "--output_dir", str(out)]
    return convert if precision == "fp32" else [*convert, "--quantization", precision]


def export_commands(checkpoint: Path, out: Path) -> dict[str, list[str]]:
    """By program, the export whose time and memory are compared: both write the float32 graph and check nothing."""
    commands = {"codegen-edge": [*_codegen_edge(), "export", str(checkpoint), str(out), "--no-verify"]}
    optimum = str(python_of("optimum-onnx"))
    commands["optimum-onnx"] = [optimum, "-c", OPTIMUM_WITHOUT_CHECK, str(checkpoint), str(out)]
    return commands


def run_command(command: list[str]) -> Conversion:
    """Run a converter.

    Raises:
        ConversionError: it failed; its last line.
    """
    started_at = time.perf_counter()
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                command,
                stdout=words,
                stderr=words,
                stdin=subprocess.DEVNULL,
                env=os.environ | ENVIRONMENT,
                cwd=REPOSITORY,
            )
        except OSError as exc:
            raise ConversionError(f"{Path(command[0]).name} did not start: {exc}") from exc
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started_at
        if process.returncode != 0:
            words.seek(0)
            lines = words.read().decode(errors="replace").strip().splitlines() or [""]
            raise ConversionError(
                f"{Path(command[0]).name} ended with {process.returncode}: {lines[-1][:_MOST_REASON]}"
            )
    return Conversion(seconds, 1024 * usage.ru_maxrss)


class Artifacts:
    """A folder of artifacts; what is missing is made when it is asked for, and kept.

    Args:
        folder: of one shape.
        shape: of benchmarks.random_checkpoint.
        on_make: called with an artifact's name before it is made.
    """

    def __init__(self, folder: Path, shape: str, on_make: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._shape = shape
        self._on_make = on_make
        self._failed: dict[str, str] = {}

    def path(self, artifact: str) -> Path:
        """The artifact's folder.

        Raises:
            NotInstalledError: its program is not there.
            ConversionError: making it failed, now or before in this process.
        """
        out = self._folder / artifact
        stamp = self._folder / f"{artifact}.{_STAMP}"
        maker = f"{_maker('checkpoint')} {_maker(artifact.partition('-')[0])}"
        if stamp.is_file() and out.is_dir() and json.loads(stamp.read_text())["maker"] == maker:
            return out
        if artifact in self._failed:
            raise ConversionError(self._failed[artifact])
        if artifact == "checkpoint":
            command = [sys.executable, "-m", "benchmarks.peers.checkpoint", self._shape, str(out)]
        else:
            command = command_of(artifact, self.path, out)
        self._on_make(artifact)
        shutil.rmtree(out, ignore_errors=True)
        try:
            took = run_command(command)
        except ConversionError as exc:
            self._failed[artifact] = f"{artifact}: {exc}"
            raise ConversionError(self._failed[artifact]) from exc
        fields = {"maker": maker, "seconds": round(took.seconds, 1), "peak_rss_bytes": took.peak_rss_bytes}
        stamp.write_text(json.dumps(fields))
        return out

    def conversions(self) -> dict[str, dict[str, Any]]:
        """By artifact, what its conversion took, once and whatever else the machine did."""
        files = sorted(self._folder.glob(f"*.{_STAMP}"))
        found = {file.name.removesuffix(f".{_STAMP}"): json.loads(file.read_text()) for file in files}
        return {name: {key: value for key, value in each.items() if key != "maker"} for name, each in found.items()}

    def size_bytes(self, artifact: str) -> int:
        """Of all files of an artifact."""
        return sum(file.stat().st_size for file in self.path(artifact).rglob("*") if file.is_file())


@cache
def _maker(program: str) -> str:
    """What a program's artifacts are made with: our sources, or a peer's environment; another one makes them again."""
    if program in _ENVIRONMENTS:
        stamp = python_of(_ENVIRONMENTS[program]).parents[1] / ".installed"
        return f"{stamp.stat().st_mtime_ns}"
    digest = hashlib.sha256()
    for folder in (
        _SOURCES if program == "ours" else ("exporter/random_checkpoint.py", "benchmarks/peers/checkpoint.py")
    ):
        path = REPOSITORY / folder
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _codegen_edge() -> list[str]:
    return [sys.executable, "-c", "from codegen_edge.cli import main; main()"]


def _ours(precision: str, source: Paths, out: Path) -> list[str]:
    if precision == "fp32":
        # Whether it is right is seen by its tokens.
        return [*_codegen_edge(), "export", str(source("checkpoint")), str(out), "--no-verify"]
    # How codes are chosen changes no kernel, and random weights hold nothing to preserve: the fast method.
    scheme, _, cache_kind = precision.partition("+")
    own = {"int4": ["--method", "round"], "int8-dynamic": ["--for", "auto"]}.get(scheme, [])
    if cache_kind:
        own += ["--kv-cache", "int8", "--calibration", str(REPOSITORY / "Makefile")]  # a short text
    quantize = [*_codegen_edge(), "quantize", str(source("ours-fp32")), str(out), "--scheme", scheme, *own]
    return [*quantize, "--measure-tokens", "0"]


def _tool(peer: str, name: str) -> str:
    return str(python_of(peer).with_name(name))
