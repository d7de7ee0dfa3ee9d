"""The main job from end to end, on whichever versions are installed: export, verify, quantize, generate, serialize.

`make test-oldest` and `make test-newest` run this file against the built wheel. It uses nothing but the command line
and the public API.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from codegen_edge import load_model, open_bundle

PROMPTS = ("def read_lines(path):\n    ", "import os\n", "class Stack:\n    def __init__(self")
NEW_TOKENS = 24
CHECKPOINT = "codegen-5M-mono"
PACKAGES = (
    "codegen-edge", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy",
    "safetensors", "huggingface-hub", "click", "rich", "packaging",
)  # fmt: skip
# How often a scheme's first choice must be the float bundle's, over the 24 tokens after each prompt, fed alike.
AGREEMENT = {"fp16": 0.98, "int8": 0.9, "int8-dynamic": 0.9, "int4": 0.8}


def codegen_edge(*arguments: str | Path) -> str:
    """Run a command as a user would; its standard output."""
    command = [sys.executable, "-W", "ignore", "-m", "codegen_edge.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("main-job") / "fp32"
    assert "equal to the reference" in codegen_edge("export", CHECKPOINT, out)
    return out


@pytest.fixture(scope="module")
def reference() -> Any:
    from codegen_edge.exporter import load_reference_model, locate_checkpoint, open_checkpoint

    return load_reference_model(open_checkpoint(locate_checkpoint(CHECKPOINT).folder))


def greedy(reference: Any, token_ids: list[int]) -> list[int]:
    """transformers' own greedy tokens."""
    import torch

    ids = torch.tensor([token_ids])
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    output = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return cast(list[int], output[0, len(token_ids) :].tolist())


def test_versions_are_reported(record_property: Callable[[str, object], None]) -> None:
    record_property("versions", ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES))


def test_export_records_an_equal_verdict(bundle: Path) -> None:
    parity = open_bundle(bundle).manifest.parity
    assert parity is not None
    assert parity["verdict"] == "equal"


def test_greedy_tokens_are_those_of_transformers(bundle: Path, reference: Any) -> None:
    with load_model(bundle) as model:
        for prompt in PROMPTS:
            completion = model.generate(prompt, max_new_tokens=NEW_TOKENS)
            assert list(completion.token_ids) == greedy(reference, model.tokenizer.encode(prompt))


def test_verify_finds_the_bundle_equal_again(bundle: Path, tmp_path: Path) -> None:
    codegen_edge("verify", bundle, "--reference", CHECKPOINT, "--steps", "4", "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "equal"
    assert report["reference"]["is_source"] is True


def test_static_target_and_hidden_states_are_exported_and_equal(tmp_path: Path) -> None:
    for out, options in (("static", ("--target", "tensorrt")), ("features", ("--task", "feature-extraction"))):
        assert "equal to the reference" in codegen_edge("export", CHECKPOINT, tmp_path / out, *options)


@pytest.mark.parametrize("scheme", AGREEMENT)
def test_every_scheme_quantizes_and_generates(bundle: Path, tmp_path: Path, scheme: str) -> None:
    out = tmp_path / scheme
    method = ("--method", "search") if scheme == "int4" else ()
    codegen_edge("quantize", bundle, out, "--scheme", scheme, *method, "--measure-tokens", "512")
    generated = json.loads(codegen_edge("generate", out, "--prompt", PROMPTS[0], "--max-new-tokens", "8", "--json"))
    assert len(generated["token_ids"]) == 8
    agreeing: list[bool] = []
    with load_model(bundle) as model, load_model(out) as small:
        for prompt in PROMPTS:
            ids = model.tokenizer.encode(prompt)
            ids += model.generate(prompt, max_new_tokens=NEW_TOKENS).token_ids
            fed = np.array([ids], np.int64)
            choices = [
                each.runtime.step(fed, each.runtime.new_cache(1, len(ids)), all_logits=True)[0].argmax(-1)
                for each in (model, small)
            ]
            agreeing += (choices[0] == choices[1]).tolist()
    assert np.mean(agreeing) >= AGREEMENT[scheme]


def test_int8_kv_cache_generates(bundle: Path, tmp_path: Path) -> None:
    codegen_edge(
        "quantize", bundle, tmp_path / "kv", "--scheme", "int8", "--kv-cache", "int8", "--measure-tokens", "512"
    )
    with load_model(tmp_path / "kv") as model:
        assert model.generate(PROMPTS[0], max_new_tokens=8).text


def test_a_saved_session_goes_on_as_it_would_have(bundle: Path, tmp_path: Path) -> None:
    with load_model(bundle) as model:
        session = model.session()
        session.append(PROMPTS[0])
        session.generate(max_new_tokens=6)
        session.save(tmp_path / "turns.session")
        restored = model.load_session(tmp_path / "turns.session")
        assert restored.generate(max_new_tokens=6).text == session.generate(max_new_tokens=6).text


def test_tokenizer_saves_its_vocabulary_and_truncates(bundle: Path, tmp_path: Path) -> None:
    from codegen_edge.exporter import CodeGenTokenizer

    tokenizer = CodeGenTokenizer.from_pretrained(bundle)
    paths = tokenizer.save_vocabulary(str(tmp_path))
    assert sorted(Path(path).name for path in paths) == ["merges.txt", "vocab.json"]
    ids = tokenizer("x = 1\n\n\nmore").input_ids
    assert tokenizer.decode(ids, truncate_before_pattern=["\n\n\n"]) == "x = 1"


def test_batches_samples_and_drafts_run(bundle: Path) -> None:
    with load_model(bundle) as model:
        alone = [model.generate(prompt, max_new_tokens=NEW_TOKENS).token_ids for prompt in PROMPTS]
        assert [each.token_ids for each in model.generate(list(PROMPTS), max_new_tokens=NEW_TOKENS)] == alone
        drafted = model.generate(PROMPTS[0], max_new_tokens=NEW_TOKENS, draft="prompt-lookup")
        assert drafted.token_ids == alone[0]
        assert len(model.generate(PROMPTS[0], max_new_tokens=4, temperature=0.8, n=3, seed=1).alternatives) == 2
        assert model.generate(PROMPTS[0], max_new_tokens=8, num_beams=3).score is not None


def test_doctor_tries_the_export() -> None:
    assert "exported and verified" in " ".join(codegen_edge("doctor").replace("│", " ").split())
