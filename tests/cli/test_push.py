"""`push` against a stand-in for the hub: what is there afterwards is a whole bundle with its results in the card."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codegen_edge import open_bundle, workflows
from codegen_edge.bundle import Bundle
from codegen_edge.errors import HubError, InvalidInputError
from tests.cli.test_bad_input import altered_copy

REPOSITORY = "me/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_of_the_tests"


@dataclass
class Hub:
    """What was uploaded, by path in the repository."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256
    created: list[dict[str, object]] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """The routes of the hub that an upload takes: one commit, large files to LFS first."""

    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        content = self.body()
        self.hub.large[self.path.rpartition("/")[2]] = content
        self.reply({})

    def do_GET(self) -> None:
        self.reply({"id": REPOSITORY, "sha": COMMIT, "siblings": []})

    def do_POST(self) -> None:
        content, path = self.body(), self.path.partition("?")[0]
        if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self.hub.created.append(json.loads(content))
            self.reply({"url": f"{self.hub.url}/{REPOSITORY}"})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/branch/" in path:
            self.hub.branches.append(path.rpartition("/")[2])
            self.reply({})
        elif "/preupload/" in path:
            named = json.loads(content)["files"]
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > 100_000 else "regular", "shouldIgnore": False}
                for f in named
            ]
            self.reply({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}}
                for each in json.loads(content)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self.commit(content)
            self.reply(
                {"commitUrl": f"{self.hub.url}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        else:
            self.reply({"error": f"the stand-in has no {path}"}, 404)

    def commit(self, content: bytes) -> None:
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.large[value["oid"]]

    def reply(self, fields: dict[str, object], status: int = 200) -> None:
        content = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": served}))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def run(hub: Hub, home: Path, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's library reads its address where it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "codegen_edge", "push", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_pushed_bundle_is_whole_and_its_card_holds_the_results(hub: Hub, tiny_bundle: Bundle, tmp_path: Path) -> None:
    small = workflows.quantize(tiny_bundle, tmp_path / "int8", scheme="int8", measure_tokens=200).bundle
    done = run(hub, tmp_path, str(small.path), REPOSITORY, "--json", "--private")
    assert done.returncode == 0, done.stderr
    fields = json.loads(done.stdout)
    assert fields["revision"] == COMMIT
    assert fields["num_files"] == len(hub.files)
    assert hub.created[0].get("private") or hub.created[0].get("visibility") == "private"  # by the library's version

    folder = tmp_path / "downloaded"
    for name, content in hub.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    downloaded = open_bundle(folder)  # every hash
    assert downloaded.fingerprint == small.fingerprint
    card = hub.files["README.md"].decode()
    damage = json.loads((small.path / "quantization_report.json").read_text())["damage"]
    assert f"{damage['perplexity_loss']:+.2%}" in card
    assert f"hf download {REPOSITORY}" in card
    assert "THIS_FOLDER" not in card
    assert (small.path / "README.md").read_text() not in card  # the folder's own stays as it was
    open_bundle(small.path)


def test_verdict_is_in_the_card(hub: Hub, tiny_checkpoint: Path, tmp_path: Path) -> None:
    exported = workflows.export(tiny_checkpoint, tmp_path / "verified").bundle
    done = run(hub, tmp_path, str(exported.path), REPOSITORY, "--branch", "try", "--message", "a first one")
    assert done.returncode == 0, done.stderr
    assert hub.branches == ["try"]
    parity = open_bundle(exported.path).manifest.parity
    assert parity is not None
    card = hub.files["README.md"].decode()
    for comparison in parity["comparisons"]:
        assert f"| {comparison['scenario']} | {comparison['positions']} |" in card
    assert hub.url in done.stdout


def test_hub_that_refuses_is_one_line_with_what_to_do(hub: Hub, tiny_bundle: Bundle, tmp_path: Path) -> None:
    done = run(hub, tmp_path, str(tiny_bundle.path), REPOSITORY, token="hf_another")
    assert done.returncode == HubError.exit_code
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "HF_TOKEN" in line
    assert not hub.files


def test_altered_bundle_is_not_pushed(hub: Hub, tiny_bundle: Bundle, tmp_path: Path) -> None:
    altered = altered_copy(tiny_bundle, tmp_path / "altered", "onnx/model.onnx_data")
    done = run(hub, tmp_path, str(altered), REPOSITORY)
    assert done.returncode == 2
    assert "altered" in done.stderr
    assert not hub.created


@pytest.mark.parametrize("name", ["tiny", "me/tiny/more", "", "me/", "../tiny"])
def test_name_that_is_no_repository_is_refused(name: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="OWNER/NAME"):
        workflows.push(tiny_bundle, name)
