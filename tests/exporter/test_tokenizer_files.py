from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from codegen_edge.errors import CheckpointError
from codegen_edge.exporter.tokenizer_files import load_tokenizer_files
from codegen_edge.tokenizer import Tokenizer as CodegenEdgeTokenizer

TEXTS = (
    "def f():\n    return  1\n\n\tx\t\ty",
    " " * 40,
    "a<|endoftext|>b",
    "Grüße, 世界 🌍",
    "\n  \n",
    "don't  'stop'  123456",
)


def test_tokenizer_built_from_its_parts_encodes_as_the_whole_one(checkpoint_copy: Path) -> None:
    whole = Tokenizer.from_file(str(checkpoint_copy / "tokenizer.json"))
    (checkpoint_copy / "tokenizer.json").unlink()
    files = load_tokenizer_files(checkpoint_copy)
    built = Tokenizer.from_buffer(files.files["tokenizer.json"])
    assert built.get_vocab() == whole.get_vocab()
    assert files.end_of_text_id == whole.token_to_id("<|endoftext|>")
    for text in TEXTS:
        assert built.encode(text).ids == whole.encode(text).ids, text


def test_clean_up_of_spaces_is_off_whatever_the_checkpoint_says(checkpoint_copy: Path) -> None:
    path = checkpoint_copy / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True, "auto_map": {"x": "y"}}
    path.write_text(json.dumps(config))
    written = json.loads(load_tokenizer_files(checkpoint_copy).files["tokenizer_config.json"])
    assert written["clean_up_tokenization_spaces"] is False
    assert written["tokenizer_class"] == "CodeGenTokenizer"
    assert "auto_map" not in written


def test_folder_without_tokenizer_is_refused(checkpoint_copy: Path) -> None:
    for name in ("tokenizer.json", "merges.txt"):
        (checkpoint_copy / name).unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer_files(checkpoint_copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{}"), ("tokenizer.json", "<html>"), ("tokenizer_config.json", "[]")],
)
def test_malformed_file_is_refused_by_name(checkpoint_copy: Path, name: str, content: str) -> None:
    (checkpoint_copy / name).write_text(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_tokenizer_files(checkpoint_copy)


def test_truncation_and_padding_of_training_are_left_out(checkpoint_copy: Path) -> None:
    path = str(checkpoint_copy / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(path)
    assert len(CodegenEdgeTokenizer(path).encode("def hello_world(): return 1")) > 4
    written = Tokenizer.from_buffer(load_tokenizer_files(checkpoint_copy).files["tokenizer.json"])
    assert written.truncation is None
    assert written.padding is None


def test_tokenizer_of_another_kind_is_refused(checkpoint_copy: Path) -> None:
    other = {"model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}}
    (checkpoint_copy / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="no byte-level BPE"):
        load_tokenizer_files(checkpoint_copy)


@pytest.mark.parametrize("token_id", ["abc", None, [1], 50257.5])
def test_added_token_without_an_integer_is_refused(checkpoint_copy: Path, token_id: object) -> None:
    (checkpoint_copy / "tokenizer.json").unlink()
    (checkpoint_copy / "added_tokens.json").write_text(json.dumps({"  ": token_id}))
    with pytest.raises(CheckpointError, match=r"added_tokens\.json"):
        load_tokenizer_files(checkpoint_copy)


def test_added_token_whose_id_does_not_follow_is_refused(checkpoint_copy: Path) -> None:
    (checkpoint_copy / "tokenizer.json").unlink()
    path = checkpoint_copy / "added_tokens.json"
    added = json.loads(path.read_text())
    path.write_text(json.dumps({text: token_id + 1 for text, token_id in added.items()}))
    with pytest.raises(CheckpointError, match="does not follow"):
        load_tokenizer_files(checkpoint_copy)
