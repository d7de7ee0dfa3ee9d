from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codegen_edge.errors import CheckpointError, InvalidInputError
from codegen_edge.exporter import locate_checkpoint

HUB_ID = "Salesforce/codegen-350M-mono"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What a stand-in for the hub serves, and which files it was asked for."""

    url: str
    folder: Path
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Hub]:
    """The hub's HTTP interface on this machine: repository info, and files with their headers."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "hub")
    served = Hub("", folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{HUB_ID}/tree/"):
                tree = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                    for file in folder.iterdir()
                ]
                self.reply(json.dumps(tree).encode(), {}, with_body)
                return
            if path.startswith(f"/api/models/{HUB_ID}"):
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                self.reply(json.dumps({"id": HUB_ID, "sha": COMMIT, "siblings": files}).encode(), {}, with_body)
                return
            prefix = f"/{HUB_ID}/resolve/"
            file = folder / path.rpartition("/")[2]
            if not path.startswith(prefix) or not file.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            served.asked.append(file.name)
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.reply(content, {"ETag": etag, "X-Repo-Commit": COMMIT}, with_body)

        def reply(self, content: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # closing it waits for them
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def locate(hub_id: str, cache: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`locate_checkpoint` in a process of its own: the hub's library reads its settings when imported."""
    program = (
        "import sys\n"
        "from codegen_edge.errors import CodegenEdgeError\n"
        "from codegen_edge.exporter.hub import locate_checkpoint\n"
        "try:\n"
        f"    found = locate_checkpoint({hub_id!r}, {', '.join(options)})\n"
        "except CodegenEdgeError as exc:\n"
        "    sys.exit(f'{type(exc).__name__}: {exc}')\n"
        "print(found.folder, found.name, found.revision)\n"
    )
    environment = {"HF_HOME": str(cache), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin"}
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment)


def test_local_folder_is_taken_without_the_hub(tiny_checkpoint: Path) -> None:
    located = locate_checkpoint(str(tiny_checkpoint))
    assert (located.folder, located.name, located.revision) == (tiny_checkpoint, "codegen-tiny", None)


def test_revision_of_a_local_folder_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidInputError, match="local folder"):
        locate_checkpoint(str(tiny_checkpoint), revision="main")


@pytest.mark.parametrize("name", ["./none", "none", "/no/such/folder", "a/b/c", "../x", "-x/y", "x/", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # so that no folder of such a name is beside
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        locate_checkpoint(name)


def test_hub_id_is_downloaded_once_and_found_offline_afterwards(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"the same weights, as a pickle")
    online = locate(HUB_ID, tmp_path / "cache", hub.url)
    assert online.returncode == 0, online.stderr
    folder, name, revision = online.stdout.split()
    assert (name, revision) == (HUB_ID, COMMIT)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in Path(folder).iterdir()}
    assert "pytorch_model.bin" not in hub.asked
    offline = locate(HUB_ID, tmp_path / "cache", "http://127.0.0.1:9", "offline=True")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == online.stdout


def test_repository_with_pickles_only_gives_them(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    done = locate(HUB_ID, tmp_path / "cache", hub.url)
    assert done.returncode == 0, done.stderr
    assert "pytorch_model.bin" in hub.asked


@pytest.mark.parametrize(
    ("hub_id", "url", "options", "words"),
    [
        (HUB_ID, "http://127.0.0.1:9", ("offline=True",), "not in the local cache, which alone was to be used"),
        (HUB_ID, "http://127.0.0.1:9", (), "failed"),
        ("nobody/nothing", None, (), "nobody/nothing"),
    ],
)
def test_hub_that_cannot_help_is_one_line(
    hub: Hub, tmp_path: Path, hub_id: str, url: str | None, options: tuple[str, ...], words: str
) -> None:
    done = locate(hub_id, tmp_path / "cache", url or hub.url, *options)
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("CheckpointError")
    assert words in last_line
    assert "Traceback" not in done.stderr
