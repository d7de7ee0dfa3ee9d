from __future__ import annotations

from pathlib import Path

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.exporter import (
    CodeGenConfig,
    CodeGenForCausalLM,
    CodeGenModel,
    CodeGenTokenizer,
    CodeGenTokenizerFast,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> CodeGenTokenizer:
    loaded: CodeGenTokenizer = CodeGenTokenizer.from_pretrained(tiny_checkpoint)
    return loaded


def test_documented_names_work_together(tiny_checkpoint: Path) -> None:
    config = CodeGenConfig.from_pretrained(tiny_checkpoint)
    assert CodeGenModel(config).wte.weight.shape == (640, 64)
    assert CodeGenForCausalLM.from_pretrained(tiny_checkpoint).config.n_layer == 2
    assert CodeGenTokenizerFast is CodeGenTokenizer


def test_save_vocabulary_writes_both_files_with_the_prefix(tokenizer: CodeGenTokenizer, tmp_path: Path) -> None:
    paths = tokenizer.save_vocabulary(str(tmp_path), "mine")
    assert sorted(Path(path).name for path in paths) == ["mine-merges.txt", "mine-vocab.json"]
    reread = CodeGenTokenizer(
        vocab_file=str(tmp_path / "mine-vocab.json"), merges_file=str(tmp_path / "mine-merges.txt")
    )
    text = "def hello_world(): return 1"
    assert reread(text).input_ids == tokenizer(text).input_ids


def test_save_vocabulary_needs_a_folder(tokenizer: CodeGenTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a folder"):
        tokenizer.save_vocabulary(str(tmp_path / "none"))


def test_text_is_truncated_before_a_pattern(tokenizer: CodeGenTokenizer) -> None:
    ids = tokenizer("x != y\n\n\nmore").input_ids
    assert tokenizer.decode(ids, truncate_before_pattern=["\n\n\n"]) == "x != y"
    assert tokenizer.decode(ids) == "x != y\n\n\nmore"


def test_token_type_ids_tell_the_sequences_apart(tokenizer: CodeGenTokenizer) -> None:
    assert tokenizer.create_token_type_ids_from_sequences([1, 2], [3]) == [0, 0, 1]
    assert tokenizer.create_token_type_ids_from_sequences([1, 2]) == [0, 0]
