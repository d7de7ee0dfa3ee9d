"""What is tried with an altered file: each attempt gives a text that is equal only where everything is."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from codegen_edge.bundle import open_bundle
from codegen_edge.errors import NumericsError
from codegen_edge.generation.model import load_model

PROMPT = "def hello_world():\n    x = [1, 2]"
_REFUSALS = (400, 404, 413, 422, 501)


def read_checkpoint(folder: Path) -> str:
    """Everything that an export reads of a checkpoint."""
    import torch

    from codegen_edge.exporter.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder)
    digest = hashlib.sha256()
    for name in sorted(checkpoint.stored_names):
        tensor = checkpoint.read(name)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{name} is not finite")  # as the export says when it comes to this weight
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    about = (
        checkpoint.model,
        sorted(checkpoint.hub_config.items(), key=str),
        checkpoint.source("checkpoint", None).name,
    )
    digest.update(repr(about).encode("utf-8", "backslashreplace"))
    digest.update(checkpoint.tokenizer_files["tokenizer.json"])
    return digest.hexdigest()


def generate(folder: Path, *, check: Any = "full") -> str:
    """Tokens, text and log probabilities of a short generation."""
    with load_model(folder, threads=1, check=check) as model:
        completion = model.generate(PROMPT, max_new_tokens=6, top_logprobs=0)
    return repr((completion.token_ids, completion.text, completion.logprobs))


def quantize(folder: Path, out: Path) -> str:
    """A generation with the bundle, stored in half precision: the graph goes through onnx-ir."""
    from codegen_edge.quantization import QuantizeOptions, quantize_bundle

    shutil.rmtree(out, ignore_errors=True)
    quantize_bundle(open_bundle(folder), out, QuantizeOptions(scheme="fp16"))
    return generate(out)


def save_session(bundle: Path, path: Path) -> str:
    """Write the session that `go_on` goes on with."""
    with load_model(bundle, threads=1) as model:
        session = model.session()
        session.append(PROMPT)
        session.generate(max_new_tokens=4)
        session.save(path)
    return ""


def go_on(bundle: Path, path: Path) -> str:
    """Text and next tokens of a saved session."""
    with load_model(bundle, threads=1, check="size") as model:
        session = model.load_session(path)
        text = session.text
        return repr((text, session.generate(max_new_tokens=6).token_ids))


def ask(bundle: Path, requests: list[tuple[str, bytes]]) -> str:
    """Send requests, one after another, to a server that takes them apart as any; "" where each was answered well.

    Returns:
        What was wrong with the first bad answer: its status, its form, or a server that answers nothing afterwards.
    """
    from starlette.testclient import TestClient

    from codegen_edge.server.engine import EngineSettings
    from codegen_edge.server.engine.sizing import bytes_per_token
    from codegen_edge.server.http import ServedModel, ServerSettings, create_app

    sound = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0}
    with load_model(bundle, threads=1, check="size") as model:
        settings = EngineSettings(slots=2, bytes_per_token=bytes_per_token(model.bundle), prefix_bytes=1 << 20)
        app = create_app([ServedModel("tiny", model, settings)], ServerSettings())
        with TestClient(app, base_url="http://localhost") as client:
            for number, (path, body) in enumerate(requests):
                answer = client.post(path, content=body)
                if answer.status_code != 200 and (answer.status_code not in _REFUSALS or not _is_short(answer.text)):
                    return f"request {number}: {path} gave {answer.status_code} {answer.text[:200]} for {body[:300]!r}"
                if '"server_error"' in answer.text or "Traceback" in answer.text:
                    return f"request {number}: {path} told of a fault for {body[:300]!r}"
            answer = client.post("/v1/completions", json=sound)
            tokens = answer.json().get("usage", {}).get("completion_tokens")
            if tokens != sound["max_tokens"]:
                return f"a sound request got {answer.status_code} {answer.text[:200]} afterwards"
    return ""


def _is_short(text: str) -> bool:
    """Whether an error is one, of JSON or plain, that does not echo a body."""
    if len(text) > 2000:
        return False
    try:
        return bool(json.loads(text))
    except ValueError:
        return "\n" not in text.strip()
