"""Another program, onnxruntime-genai, loads the bundle unchanged and generates the same tokens."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from codegen_edge.bundle import Bundle
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.tokenizer import Tokenizer

PROMPTS = ("def hello_world():", "import os\n\n\nclass")
NEW_TOKENS = 64


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its compiled types
def test_onnxruntime_genai_generates_the_tokens_of_transformers(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import onnxruntime_genai as genai
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    reference = load_reference_model(open_checkpoint(tiny_checkpoint))
    model = genai.Model(str(tiny_bundle.path))
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        expected = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tiny_bundle.manifest.model.eos_token_id,
        )[0].tolist()
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + NEW_TOKENS, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        assert generator.get_sequence(0).tolist() == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnxruntime_genai_reads_the_tokenizer(tiny_bundle: Bundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import onnxruntime_genai as genai
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    theirs = genai.Tokenizer(genai.Model(str(tiny_bundle.path)))
    for text in ("def f():\n    return 1", "x\t\ty"):
        assert theirs.encode(text).tolist() == tokenizer.encode(text)
