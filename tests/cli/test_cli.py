from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.storage import sha256_of
from codegen_edge.dependencies import install_command
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape
from tests.cli.running import Run
from tests.conftest import MakeCheckpoint
from tests.processes import cpu_seconds, needs_proc


def test_tour_from_checkpoint_to_text(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    exported = run("export", tiny_checkpoint, out)
    assert (exported.code, "equal to the reference" in exported.stdout) == (0, True), exported
    proved = open_bundle(out).manifest.parity
    assert proved is not None
    assert proved["reference"]["is_source"]

    verified = run("verify", out, "--reference", tiny_checkpoint, "--json", "--report", tmp_path / "report.json")
    assert verified.code == 0, verified
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "equal"
    assert json.loads(verified.stdout)["verdict"] == "equal"

    inspected = run("inspect", out)
    assert inspected.code == 0
    assert "equal on cpu" in inspected.stdout
    assert json.loads(run("inspect", out, "--json").stdout)["source"]["name"] == "codegen-tiny"

    generated = run("generate", out, "--prompt", "def f", "--max-new-tokens", 8, "--json")
    fields = json.loads(generated.stdout)
    assert generated.code == 0
    assert len(fields["token_ids"]) == 8
    assert fields["finish_reason"] == "length"
    assert {"text", "prompt_tokens", "prefill_ms", "decode_tokens_per_second"} <= fields.keys()
    for mode in ("--stream", "--no-stream"):
        text = run("generate", out, "--prompt", "def f", "--max-new-tokens", 8, mode)
        assert (text.code, text.stdout) == (0, fields["text"] + "\n")


def test_prompt_is_read_from_a_file_or_stdin(
    run: Run, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "# Grüße 🌍\r\n\tx"
    (tmp_path / "prompt.txt").write_bytes(prompt.encode())
    expected = run("generate", tiny_bundle.path, "--prompt", prompt, "--max-new-tokens", 4).stdout
    from_file = run("generate", tiny_bundle.path, "--prompt-file", tmp_path / "prompt.txt", "--max-new-tokens", 4)
    assert from_file.stdout == expected
    with (tmp_path / "prompt.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        from_stdin = run("generate", tiny_bundle.path, "--prompt-file", "-", "--max-new-tokens", 4)
    assert from_stdin.stdout == expected


def test_sampling_and_stop_reach_the_loop(run: Run, tiny_bundle: Bundle) -> None:
    sampled = ("--temperature", 1.0, "--top-k", 50, "--top-p", 0.9, "--seed", 4, "--max-new-tokens", 12)
    command = ("generate", tiny_bundle.path, "--prompt", "def f", "--json", *sampled)
    first, second = (json.loads(run(*command).stdout) for _ in range(2))
    assert first["token_ids"] == second["token_ids"]
    stop = first["text"][3:5]
    stopped = json.loads(run(*command, "--stop", stop, "--stop", "never").stdout)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == first["text"][: first["text"].index(stop)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", ""), "prompt is empty"),
        ((), "either --prompt"),
        (("--prompt", "a", "--prompt-file", "-"), "either --prompt"),
        (("--prompt-file", "none.txt"), "none.txt cannot be read"),
        (("--prompt", "é" * 200), "the model's context of 128"),
        (("--prompt", "a", "--max-new-tokens", 0), "error: --max-new-tokens must be"),
        (("--prompt", "a", "--temperature", -1), "temperature"),
        (("--prompt", "a", "--temperature", "nan"), "temperature"),
        (("--prompt", "a", "--temperature", 1, "--top-p", 2), "error: --top-p must be"),
        (("--prompt", "a", "--top-k", 3), "temperature above 0"),
        (("--prompt", "a", "--seed", -1), "seed"),
        (("--prompt", "a", "--stop", ""), "stop"),
        (("--prompt", "a", "--runtime", "gpu"), "--runtime must be one of cpu, static-cpu"),
        (("--prompt", "a", "--runtime", "cuda"), "codegen-edge build BUNDLE OUT --runtime cuda"),
        (("--prompt", "a", "--device", "1"), "runtime cpu has no --device; it has: --threads, --exact-steps"),
        (("--prompt", "a", "--threads", 0), "threads"),
    ],
)
def test_wrong_input_of_generate_is_one_line_and_code_2(
    run: Run, tiny_bundle: Bundle, options: tuple[object, ...], words: str
) -> None:
    done = run("generate", tiny_bundle.path, *options)
    assert done.code == 2
    assert words in done.error
    assert done.stdout == ""


def test_prompt_file_that_is_not_utf8_is_refused(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"abc\xff")
    done = run("generate", tiny_bundle.path, "--prompt-file", tmp_path / "latin")
    assert (done.code, "not UTF-8 at byte 3" in done.error) == (2, True)


def test_option_of_the_wrong_type_is_code_2(run: Run, tiny_bundle: Bundle) -> None:
    assert run("generate", tiny_bundle.path, "--prompt", "a", "--max-new-tokens", "many").code == 2


@pytest.mark.parametrize("command", ["generate", "inspect", "verify"])
def test_altered_bundle_is_refused_by_every_command(
    run: Run, bundle_copy: Bundle, tiny_checkpoint: Path, command: str
) -> None:
    data = bundle_copy.path / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 255
    data.write_bytes(content)
    options = {"generate": ("--prompt", "a"), "inspect": (), "verify": ("--reference", tiny_checkpoint)}
    done = run(command, bundle_copy.path, *options[command])
    assert (done.code, "was altered" in done.error) == (2, True)


def test_existing_bundle_is_kept_without_overwrite(run: Run, bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    before = (bundle_copy.path / "bundle.json").read_bytes()
    done = run("export", tiny_checkpoint, bundle_copy.path)
    assert (done.code, "--overwrite" in done.error) == (2, True)
    assert (bundle_copy.path / "bundle.json").read_bytes() == before
    replaced = run("export", tiny_checkpoint, bundle_copy.path, "--overwrite", "--no-verify")
    assert replaced.code == 0
    assert open_bundle(bundle_copy.path).manifest.parity is None


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.bias"][7] = torch.nan
    save_file(tensors, path)


def spoil_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gptj"}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_weights, "lm_head.bias holds NaN"),
        (spoil_config, "model_type 'gptj'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (shutil.rmtree, "neither a folder nor a hub id"),
    ],
)
def test_unsound_checkpoint_is_one_line_and_leaves_nothing(
    run: Run, checkpoint_copy: Path, tmp_path: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    spoil(checkpoint_copy)
    done = run("export", checkpoint_copy, tmp_path / "out")
    assert (done.code, words in done.stderr.strip().splitlines()[-1]) == (2, True), done
    assert "Traceback" not in done.stderr
    assert [item.name for item in tmp_path.iterdir()] in ([], ["checkpoint"])


def test_bundle_that_differs_ends_in_code_1_and_says_where(
    run: Run, bundle_copy: Bundle, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    other = make_checkpoint(seed=2)
    report = tmp_path / "report.json"
    done = run("verify", bundle_copy.path, "--reference", other, "--steps", 2, "--report", report)
    assert done.code == 1
    assert "is not equal to" in done.stderr
    assert "prompt 0, position 0" in done.stderr
    assert json.loads(report.read_text())["verdict"] == "different"
    parity = open_bundle(bundle_copy.path).manifest.parity
    assert parity is not None
    assert parity["verdict"] == "different"
    assert not parity["reference"]["is_source"]


def test_debug_shows_where_an_error_comes_from_wherever_it_stands(run: Run, tmp_path: Path) -> None:
    none = tmp_path / "none"
    for line in ("--debug inspect NONE", "inspect --debug NONE", "inspect NONE --debug", "evaluate --debug NONE"):
        assert "Traceback" in run(*(none if word == "NONE" else word for word in line.split())).stderr
    assert "Traceback" in run("evaluate", "perplexity", none, "--debug").stderr
    assert "Traceback" not in run("inspect", none).stderr


def test_doctor_finds_this_environment_whole(run: Run) -> None:
    done = run("doctor")
    assert done.code == 0
    assert "runtime cpu" in done.stdout


def test_doctor_without_a_runtime_fails_and_tells_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("doctor")
    assert done.code == 3
    assert install_command("cpu") in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def loaded_modules(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], check=True, capture_output=True, text=True
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "statement", ["import codegen_edge", "import codegen_edge.cli", "import codegen_edge.runtimes.registry"]
)
def test_base_needs_no_heavy_package(statement: str) -> None:
    heavy = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "safetensors"}
    assert not heavy & loaded_modules(statement)


@needs_proc
@pytest.mark.quiet
def test_ctrl_c_in_a_long_prefill_ends_within_a_second(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    shape = ModelShape(n_layer=12, n_embd=512, n_head=8, rotary_dim=32, vocab_size=640, n_positions=2048)
    bundle = export_checkpoint(locate_checkpoint(str(make_checkpoint(shape))), tmp_path / "bundle")
    (tmp_path / "prompt").write_text("é" * 1000)  # two tokens each
    command = [sys.executable, "-m", "codegen_edge.cli", "generate", str(bundle.path), "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--prompt-file", str(tmp_path / "prompt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Loading takes about half of this much processor time, prefill and decode several times as much.
    while cpu_seconds(process.pid) < 1.5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    interrupted_at = time.perf_counter()
    stdout, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - interrupted_at < 1
    assert process.returncode == 130
    assert (stdout, stderr.strip()) == ("", "interrupted")


def test_logits_that_are_nan_end_in_code_2_and_name_the_step(run: Run, bundle_copy: Bundle) -> None:
    """Weights that broke after the export, in a bundle whose manifest vouches for them."""
    model = onnx.load(bundle_copy.model_path, load_external_data=False)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "lm_head.bias")
    offset = next(int(entry.value) for entry in bias.external_data if entry.key == "offset")
    data = bundle_copy.path / contract.WEIGHTS_FILE
    content = bytearray(data.read_bytes())
    content[offset : offset + 4] = np.float32(np.nan).tobytes()
    data.write_bytes(content)
    manifest = json.loads((bundle_copy.path / "bundle.json").read_text())
    manifest["files"][contract.WEIGHTS_FILE]["sha256"] = sha256_of(data)
    (bundle_copy.path / "bundle.json").write_text(json.dumps(manifest))
    done = run("generate", bundle_copy.path, "--prompt", "def f")
    assert (done.code, "logits of step 0 are not finite" in done.error) == (2, True)
