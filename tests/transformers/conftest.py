"""One tiny checkpoint as transformers' own model and as the drop-in over its bundle, and a smaller one to draft."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from codegen_edge.bundle import Bundle
from codegen_edge.exporter import export_checkpoint, load_reference_model, locate_checkpoint, open_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape
from codegen_edge.transformers import AutoTokenizer, CodeGenEdgeForCausalLM
from tests.conftest import MakeCheckpoint

SMALLER = ModelShape(n_layer=1, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128)
PROMPTS = ("def hello_world():", "class Stack:\n    def push(self, item):\n        self", "for")


@dataclass(frozen=True, slots=True)
class Pair:
    """A checkpoint twice.

    Attributes:
        edge: the drop-in.
        torch: transformers' CodeGenForCausalLM.
    """

    edge: Any
    torch: Any


def pair_of(checkpoint: Any, bundle: Bundle) -> Pair:
    edge = CodeGenEdgeForCausalLM.from_pretrained(bundle.path, threads=1)
    reference = load_reference_model(open_checkpoint(checkpoint))
    reference.generation_config = GenerationConfig.from_pretrained(bundle.path)
    return Pair(edge=edge, torch=reference)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost a model of this size more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tiny_checkpoint: Any, tiny_bundle: Bundle) -> Iterator[Pair]:
    made = pair_of(tiny_checkpoint, tiny_bundle)
    yield made
    made.edge.close()


@pytest.fixture(scope="session")
def drafters(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Wrong often enough that drafts are refused, right often enough that some are taken."""
    checkpoint = make_checkpoint(SMALLER)
    bundle = export_checkpoint(locate_checkpoint(str(checkpoint)), tmp_path_factory.mktemp("bundle") / "smaller")
    made = pair_of(checkpoint, bundle)
    yield made
    made.edge.close()


@pytest.fixture(scope="session")
def tokenizer(tiny_bundle: Bundle) -> Any:
    made = AutoTokenizer.from_pretrained(tiny_bundle.path)
    made.pad_token, made.padding_side = made.eos_token, "left"  # transformers 5.0 pads right unless it is told
    return made


@pytest.fixture(params=["left", "right"])
def padded(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    """Prompts of three lengths, padded on either side."""
    return tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side=request.param)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
