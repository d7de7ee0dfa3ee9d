"""Whether what would be released works where there is no clone: python -m benchmarks.release_check.

Builds the sdist and, from it, the wheel; checks their metadata; installs the wheel with its extras, and no constraints,
into an empty environment; and runs README's tour there, line by line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from codegen_edge.dependencies import INSTALL_SOURCE

REPOSITORY = Path(__file__).resolve().parent.parent
HUB_ID, SHIPPED = "Salesforce/codegen-350M-mono", "codegen-5M-mono"


def tour() -> list[str]:
    """The commands of README's tour."""
    readme = (REPOSITORY / "README.md").read_text()
    (block,) = re.findall(r"## A tour in five commands\n\n((?: {4}.*\n)+)", readme)
    return [line.strip() for line in block.splitlines()]


def run(command: list[str], **options: object) -> None:
    """Show a command and run it; an exit code other than 0 ends the check."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]


def build(out: Path) -> Path:
    """Build sdist and wheel from what git has, so that nothing left in the tree gets in; the wheel."""
    source = out / "source"
    run(["git", "clone", "--quiet", str(REPOSITORY), str(source)])
    run([sys.executable, "-m", "build", "--outdir", str(out / "dist"), str(source)], stdout=subprocess.DEVNULL)
    built = [str(path) for path in sorted((out / "dist").iterdir())]
    run([sys.executable, "-m", "twine", "check", "--strict", *built])
    (wheel,) = (out / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    astray = [name for name in names if not name.startswith(("codegen_edge/", "codegen_edge-"))]
    assert not astray, f"the wheel holds {astray[0]}"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel


def hub_is_there() -> bool:
    """Whether the tour's hub id can be fetched from here."""
    command = [sys.executable, "-c", f"import huggingface_hub; huggingface_hub.model_info({HUB_ID!r}, timeout=10)"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def serve_once(environment: Path, wheel: Path, folder: Path) -> None:
    """README's server, from the wheel: the tour's bundle completes a prompt, and the page is there."""
    run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[cpu,serve]"])
    command = [str(environment / "bin" / "codegen-edge"), "serve", "my-bundle", "--port", "0"]
    print("$", " ".join(command), flush=True)
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError("".join(lines))
        url = lines[-1].split()[-1]
        body = json.dumps({"prompt": "def f(x):", "max_tokens": 8, "temperature": 0}).encode()
        with urllib.request.urlopen(f"{url}/v1/completions", body, timeout=60) as answer:
            print(json.load(answer)["choices"][0])
        for path in ("/", "/page/app.js", "/page/style.css", "/metrics"):
            with urllib.request.urlopen(f"{url}{path}", timeout=10) as answer:
                assert answer.read()
        process.terminate()
        assert process.wait(30) == 0


def main() -> None:
    """Do all of it in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="codegen-edge-release-") as name:
        out = Path(name)
        wheel = build(out)
        environment = out / "environment"
        run([sys.executable, "-m", "venv", str(environment)])
        checkpoint = HUB_ID if hub_is_there() else SHIPPED
        if checkpoint == SHIPPED:
            print(f"the hub cannot be reached: {SHIPPED} stands for {HUB_ID}, as README says")
        empty = out / "empty"
        empty.mkdir()
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        for line in tour():
            # The first line installs from a clone today; here the wheel is what a package index would give.
            command = line.replace(f'"{INSTALL_SOURCE}[', f'"{wheel}[').replace(HUB_ID, checkpoint)
            run(["bash", "-c", command], cwd=empty, env=os.environ | {"PATH": path, "VIRTUAL_ENV": str(environment)})
        python = environment / "bin" / "python"
        run(
            [str(python), "-c", "import codegen_edge; print(codegen_edge.__version__, codegen_edge.__file__)"],
            cwd=empty,
        )
        serve_once(environment, wheel, empty)
        shutil.rmtree(environment)
    print("release check: ok")


if __name__ == "__main__":
    main()
