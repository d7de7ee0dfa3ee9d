"""The main job on other versions of what we stand on.

python -m benchmarks.compatibility lowest      requirements: every dependency at its lower bound in pyproject.toml
python -m benchmarks.compatibility run LABEL   run the main job with this interpreter and record its versions
python -m benchmarks.compatibility write       docs/compatibility.md and proved_versions.json, from the result
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "compatibility.json"
PAGE = REPOSITORY / "docs" / "compatibility.md"
PROVED = REPOSITORY / "src" / "codegen_edge" / "proved_versions.json"
MAIN_JOB = "tests/test_main_job.py"
EXTRAS = ("cpu", "export")
START, END = "<!-- versions:", "<!-- end of versions -->"
SHOWN = (
    "transformers",
    "torch",
    "onnxruntime",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "tokenizers",
    "huggingface-hub",
    "numpy",
)


def requirements() -> dict[str, str]:
    """Lower bound by package, of the base and the extras that the main job needs."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    bounds = {}
    for requirement in stated:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(,.*)?", requirement)
        assert match is not None, f"{requirement} states no lower bound"
        bounds[match[1]] = match[2]
    return bounds


def run(label: str) -> int:
    """Run the main job with this interpreter; record its versions where it passes. The exit code of pytest."""
    started = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "pytest", MAIN_JOB], cwd=REPOSITORY, check=False).returncode
    if code == 0:
        entry = {
            "label": label,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "seconds": round(time.perf_counter() - started),
            "versions": {name: metadata.version(name) for name in requirements()},
        }
        result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"runs": []}
        runs = [each for each in result["runs"] if each["label"] != label]
        RESULT.write_text(json.dumps({"runs": [*runs, entry]}, indent=2) + "\n")
    return code


def load_runs() -> list[dict[str, Any]]:
    """What was recorded."""
    runs: list[dict[str, Any]] = json.loads(RESULT.read_text())["runs"]
    return runs


def proved(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Every version of each package that a run passed with, oldest first."""
    versions = {name: {entry["versions"][name] for entry in runs} for name in SHOWN}
    return {name: sorted(found, key=version_key) for name, found in versions.items()}


def version_key(version: str) -> tuple[int, ...]:
    """Release numbers, for sorting; a local build tag ("2.13.0+cpu") does not count."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def render(page: str, runs: list[dict[str, Any]]) -> str:
    """The page with its table written anew."""
    head, _, rest = page.partition(START)
    comment, _, rest = rest.partition("\n")
    _, _, tail = rest.partition(END)
    ordered = sorted(runs, key=lambda entry: (version_key(entry["versions"]["transformers"]), entry["label"]))
    rows = [
        f"| {entry['label']} | {entry['python']} | " + " | ".join(entry["versions"][name] for name in SHOWN) + " |"
        for entry in ordered
    ]
    table = [f"| run | Python | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|", *rows]
    return head + START + comment + "\n" + "\n".join(table) + "\n" + END + tail


def main(arguments: list[str]) -> int:
    """Do one of the three; the exit code."""
    match arguments:
        case ["lowest"]:
            print("\n".join(f"{name}=={bound}" for name, bound in requirements().items()))
        case ["run", label]:
            return run(label)
        case ["write"]:
            runs = load_runs()
            PAGE.write_text(render(PAGE.read_text(), runs))
            PROVED.write_text(json.dumps(proved(runs), indent=2) + "\n")
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
