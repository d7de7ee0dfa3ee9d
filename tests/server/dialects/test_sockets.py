"""On real sockets: pieces come while the model works, and who goes away leaves no work behind."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import PATIENCE_SECONDS, listening, recorded, slow_steps

STEP_SECONDS = 0.05
NUM_TOKENS = 20
STREAMED: dict[str, dict[str, Any]] = {
    "copilot_vscode": {"max_tokens": NUM_TOKENS, "stop": []},
    "continue_llama_cpp": {"n_predict": NUM_TOKENS, "stop": []},
    "continue_fim": {"max_tokens": NUM_TOKENS, "stop": [], "suffix": ""},
    "ollama_stream": {"options": {"num_predict": NUM_TOKENS, "temperature": 0}},
}


@pytest.mark.parametrize("name", STREAMED)
def test_pieces_come_while_the_model_works(model: Model, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = recorded(name)
    with listening(model) as url, slow_steps(monkeypatch, model, STEP_SECONDS):
        arrived: list[float] = []
        with httpx.stream("POST", url + asked["path"], json=asked["body"] | STREAMED[name], timeout=20) as answer:
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                arrived.append(time.monotonic())
    assert len(arrived) > NUM_TOKENS // 4
    assert arrived[-1] - arrived[0] > NUM_TOKENS // 4 * STEP_SECONDS


@pytest.mark.parametrize("name", ["llama_vim_fim", "llm_ls_tgi", "tabby_completion"])
@pytest.mark.quiet
def test_client_that_goes_away_frees_its_slot(model: Model, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = recorded(name)
    longer = {"n_predict": 100, "n_indent": 0, "t_max_predict_ms": 0} if name == "llama_vim_fim" else {}
    with listening(model) as url, slow_steps(monkeypatch, model, 2 * STEP_SECONDS):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + asked["path"], json=asked["body"] | longer, timeout=httpx.Timeout(20, read=0.5))
        gone_at = time.monotonic()
        while any(slot["is_processing"] for slot in httpx.get(f"{url}/slots").json()):
            assert time.monotonic() < gone_at + PATIENCE_SECONDS
            time.sleep(0.01)
        assert time.monotonic() - gone_at < 1.0
