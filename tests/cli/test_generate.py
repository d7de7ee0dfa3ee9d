"""What `generate` prints, and which bundle and runtime it takes."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from codegen_edge import load_model, workflows
from codegen_edge.bundle import Bundle
from codegen_edge.cli.completions import speed_line
from codegen_edge.generation.output import Completion
from tests.cli.running import Run

PROMPT = ("--prompt", "def f", "--max-new-tokens", 6)


def test_token_ids_are_a_prompt_and_echo_gives_it_back(run: Run, tiny_bundle: Bundle) -> None:
    plain = run("generate", tiny_bundle.path, *PROMPT)
    with load_model(tiny_bundle.path) as model:
        ids = model.tokenizer.encode("def f")
    for written in (",".join(map(str, ids)), json.dumps(ids), " ".join(map(str, ids))):
        by_ids = run("generate", tiny_bundle.path, "--prompt-ids", written, "--max-new-tokens", 6, "--echo")
        assert by_ids.stdout == f"def f{plain.stdout}"
    whole = run("generate", tiny_bundle.path, *PROMPT, "--echo", "--no-stream").stdout
    assert whole == f"def f{plain.stdout}"
    fields = json.loads(run("generate", tiny_bundle.path, *PROMPT, "--echo", "--json").stdout)
    assert (fields["prompt"], f"{fields['text']}\n") == ("def f", plain.stdout)


def test_json_lines_are_tokens_and_then_the_whole(run: Run, tiny_bundle: Bundle) -> None:
    done = run("generate", tiny_bundle.path, *PROMPT, "--json", "--stream", "--top-logprobs", 1)
    *tokens, whole = map(json.loads, done.stdout.splitlines())
    assert [each["event"] for each in tokens] == ["token"] * 6
    assert "".join(each["text"] for each in tokens) == whole["text"]
    assert [each["token_id"] for each in tokens] == whole["token_ids"]
    assert [each["logprob"] for each in tokens] == whole["logprobs"]
    assert tokens[-1]["finish_reason"] == whole["finish_reason"] == "length"
    assert whole["event"] == "completion"
    assert done.stderr == ""
    several = run("generate", tiny_bundle.path, *PROMPT, "--json", "--stream", "-n", 2, "--temperature", 1, "--seed", 1)
    assert {json.loads(line).get("sample", 0) for line in several.stdout.splitlines()[:-1]} == {0, 1}


def test_speed_is_on_stderr_unless_quiet(run: Run, tiny_bundle: Bundle) -> None:
    told = run("generate", tiny_bundle.path, *PROMPT).stderr
    assert re.fullmatch(r"6 tokens, [\d.]+ tokens/s; the first one after \d+ ms\n", told)
    assert run("generate", tiny_bundle.path, *PROMPT, "--quiet").stderr == ""
    assert run("generate", tiny_bundle.path, *PROMPT, "--json").stderr == ""


def test_speed_counts_all_rows() -> None:
    fields: dict[str, Any] = {"text": "", "prompt_tokens": 1, "finish_reason": "length", "prefill_ms": 5.0}
    row = Completion(token_ids=(1, 2, 3), decode_ms=1000.0, **fields)
    assert speed_line(row) == "3 tokens, 2.0 tokens/s; the first one after 5 ms"
    two = Completion(token_ids=(1, 2, 3), decode_ms=1000.0, alternatives=(row,), **fields)
    assert speed_line(two) == "6 tokens, 4.0 tokens/s; the first one after 5 ms"
    beam = Completion(token_ids=(1, 2, 3), decode_ms=1000.0, score=-1.0, **fields)
    assert speed_line(beam) == "3 tokens, 3.0 tokens/s"
    assert speed_line(Completion(token_ids=(1,), decode_ms=0.0, **fields)) == "1 token; the first one after 5 ms"


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_static_bundle_runs_by_itself_and_says_so(
    run: Run, static_bundle: Bundle, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    options = PROMPT if command == "generate" else ("--max-new-tokens", 2)
    done = run(command, static_bundle.path, *options)
    assert done.code == 0
    assert f"{static_bundle.path} is a graph for tensorrt: runtime static-cpu runs it" in done.stderr
    assert "is a graph" not in run(command, static_bundle.path, *options, "--runtime", "static-cpu").stderr


def test_hub_id_is_exported_into_the_cache_once(
    run: Run, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = []

    def export(checkpoint: str, out: Path, **_: Any) -> None:
        exported.append(checkpoint)
        shutil.copytree(tiny_bundle.path, out)

    monkeypatch.setattr(workflows, "export", export, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run("generate", "Salesforce/codegen-350M-mono", "--export", *PROMPT)
    folder = tmp_path / "codegen-edge" / "bundles" / "Salesforce--codegen-350M-mono"
    assert (done.code, f"exported Salesforce/codegen-350M-mono to {folder}" in done.stderr) == (0, True)
    again = run("generate", "Salesforce/codegen-350M-mono", "--export", *PROMPT)
    assert again.stdout == done.stdout
    assert exported == ["Salesforce/codegen-350M-mono"]
