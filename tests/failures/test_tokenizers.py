"""Tokenizer files that are wrong or hostile: row C12, and every form that is not CodeGen's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.errors import BundleError, CheckpointError
from codegen_edge.exporter.checkpoint import open_checkpoint
from codegen_edge.exporter.tokenizer_files import load_tokenizer_files
from codegen_edge.tokenizer import Tokenizer

MOST_SECONDS = 5.0  # of a refusal on a busy machine
SHIPPED = Path(__file__).parents[2] / "checkpoints" / "codegen-5M-mono"

Fields = dict[str, Any]
Change = Callable[[Fields], None]


def model(**values: Any) -> Change:
    return lambda fields: fields["model"].update(values)


def part(name: str, value: Any) -> Change:
    return lambda fields: fields.update({name: value})


def vocabulary(**values: Any) -> Change:
    return lambda fields: fields["model"]["vocab"].update(values)


def added(**values: Any) -> Change:
    return lambda fields: fields["added_tokens"][-1].update(values)


def without_byte(fields: Fields) -> None:
    ids = fields["model"]["vocab"]
    ids["other"] = ids.pop("\u0100")


def many_added(fields: Fields) -> None:
    first = len(fields["model"]["vocab"]) + len(fields["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    fields["added_tokens"] += [{"id": first + number, "content": f"@{number}", **flags} for number in range(2000)]


def exchanged_ids(fields: Fields) -> None:
    last, before = fields["added_tokens"][-1], fields["added_tokens"][-2]
    last["id"], before["id"] = before["id"], last["id"]


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BACKTRACKING = {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# What is changed, and a word of the error that names it.
HOSTILE: dict[str, tuple[Change, str]] = {
    "an id of 2^31": (vocabulary(zzz=2**31), "zzz"),
    "an id of 2^31 of an added token": (added(id=2**31), "must be in"),
    "a growing Replace normalizer": (part("normalizer", GROWING), "normalizer"),
    "growing normalizers in a sequence": (
        part("normalizer", {"type": "Sequence", "normalizers": [GROWING] * 40}),
        "normalizer",
    ),
    "a backtracking Split": (part("pre_tokenizer", BACKTRACKING), "pre_tokenizer"),
    "a backtracking Split in a sequence": (
        part("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BACKTRACKING, BYTE_LEVEL]}),
        "pre_tokenizer",
    ),
    "BPE dropout": (model(dropout=0.5), "dropout"),
    "a lone surrogate in a token": (vocabulary(**{"\ud800": 10_000}), "surrogate"),
    "a lone surrogate in an added token": (added(content="\udfff"), "surrogate"),
    "no pre-tokenizer": (part("pre_tokenizer", None), "pre_tokenizer"),
    "one word for a whole text": (part("pre_tokenizer", BYTE_LEVEL | {"use_regex": False}), "use_regex"),
    "a space put before the text": (part("pre_tokenizer", BYTE_LEVEL | {"add_prefix_space": True}), "add_prefix_space"),
    "a space, written as 1": (part("pre_tokenizer", BYTE_LEVEL | {"add_prefix_space": 1}), "add_prefix_space"),
    "another decoder": (part("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder"),
    "no decoder": (part("decoder", None), "decoder"),
    "tokens put around the text": (
        part("post_processor", {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        "post_processor",
    ),
    "another model": (part("model", {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}), "no byte-level BPE"),
    "a prefix of subwords": (model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "an end of words": (model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "bytes as tokens of their own": (model(byte_fallback=True), "byte_fallback"),
    "an unknown token that is none": (model(unk_token="nowhere"), "unk_token"),
    "an unknown field": (part("extra", 1), "extra"),
    "an unknown field of the model": (model(extra=1), "extra"),
    "an id that is given twice": (vocabulary(zzz=5), "same id"),
    "a hole in the ids": (vocabulary(zzz=200_000), "dense"),
    "a negative id": (vocabulary(zzz=-1), "must be in"),
    "a fraction as an id": (vocabulary(zzz=1.5), "must be in"),
    "True as an id": (vocabulary(zzz=True), "must be in"),
    "a byte that is missing": (without_byte, "lacks the byte"),
    "an empty token": (vocabulary(**{"": 10_000}), "0 characters"),
    "a token of 5,000 characters": (vocabulary(**{"a" * 5000: 10_000}), "5000 characters"),
    "300,000 tokens": (vocabulary(**{f"@{number}": number for number in range(300_000)}), "at most 262,144"),
    "300,000 merges": (model(merges=["a b"] * 300_000), "at most 262,144"),
    "a merge of 5,000 characters": (model(merges=["a " + "b" * 5000]), "merge"),
    "a merge of unknown tokens": (model(merges=["zz yy"]), "no tokenizer"),
    "2,000 added tokens": (many_added, "at most 1024"),
    "an added token that takes spaces along": (added(lstrip=True), "lstrip"),
    "an added token of whole words": (added(single_word=True), "single_word"),
    "an added token of two ids": (added(content="a"), "two ids"),
    "added tokens in another order": (exchanged_ids, "follow"),
}


@pytest.fixture(scope="module")
def sound() -> Fields:
    fields: Fields = json.loads((SHIPPED / "tokenizer.json").read_text())
    return fields


def refused(path: Path, expected: str, content: bytes | None = None) -> None:
    """Both doors refuse the file: the export's, and that of a bundle that is opened."""
    if content is not None:
        path.write_bytes(content)
    for opened, error in (
        (lambda: load_tokenizer_files(path.parent), CheckpointError),
        (lambda: Tokenizer(path), BundleError),
    ):
        started_at = time.perf_counter()
        with pytest.raises(error, match=expected) as raised:
            opened()
        assert time.perf_counter() - started_at < MOST_SECONDS
        assert len(str(raised.value)) < 1000
        str(raised.value).encode()  # it can be printed


@pytest.mark.parametrize("name", HOSTILE)
def test_tokenizer_of_another_form_is_refused_at_export_and_at_opening(
    tmp_path: Path, sound: Fields, name: str
) -> None:
    change, expected = HOSTILE[name]
    fields = json.loads(json.dumps(sound))
    change(fields)
    refused(tmp_path / "tokenizer.json", expected, json.dumps(fields).encode())


CORRUPT = {
    "empty": b"",
    "no JSON": b"<html>",
    "no object": b"[]",
    "an object without a model": b"{}",
    "not UTF-8": b'{"model": "\xff"}',
    "100,000 levels": b'{"model":' * 100_000,
    "duplicate keys": b'{"model": {}, "model": {"type": "BPE"}}',
    "17 MB": b" " * (17 * 2**20),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_C12_corrupt_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path / "tokenizer.json", "tokenizer", CORRUPT[name])


def test_C12_tokenizer_of_8_gb_is_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(8 * 2**30)
    refused(tmp_path / "tokenizer.json", "more than 16,777,216 bytes")


def test_C12_pipe_as_a_bundles_tokenizer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(BundleError, match="no regular file"):
        Tokenizer(tmp_path / "tokenizer.json")


PARTS: dict[str, tuple[str, bytes]] = {
    "an id of 2^31": ("vocab.json", b'{"a": 2147483648}'),
    "a lone surrogate": ("vocab.json", b'{"\\ud800": 0}'),
    "duplicate keys": ("vocab.json", b'{"a": 0, "a": 1}'),
    "17 MB of vocabulary": ("vocab.json", b" " * (17 * 2**20)),
    "17 MB of merges": ("merges.txt", b"a b\n" * (17 * 2**18)),
    "merges of unknown tokens": ("merges.txt", b"#version: 0.2\nqqq zzz\n"),
    "merges that are not UTF-8": ("merges.txt", b"\xff\xfe\n"),
    "an added id of 2^31": ("added_tokens.json", b'{"  ": 2147483648}'),
    "an added lone surrogate": ("added_tokens.json", b'{"\\ud800": 4001}'),
    "an added token twice": ("added_tokens.json", b'{"  ": 4001, "  ": 4002}'),
    "a lone surrogate in the settings": ("tokenizer_config.json", b'{"bos_token": "\\ud800"}'),
}


@pytest.mark.parametrize("name", PARTS)
def test_C12_hostile_part_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    for file in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((SHIPPED / file).read_bytes())
    file, content = PARTS[name]
    (tmp_path / file).write_bytes(content)
    started_at = time.perf_counter()
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        load_tokenizer_files(tmp_path)
    assert time.perf_counter() - started_at < MOST_SECONDS


def test_C12_tokenizer_with_more_ids_than_the_model_is_refused(checkpoint_copy: Path) -> None:
    config = json.loads((checkpoint_copy / "config.json").read_text())
    (checkpoint_copy / "config.json").write_text(json.dumps(config | {"vocab_size": 300, "eos_token_id": 1}))
    with pytest.raises(CheckpointError, match="the model only 300"):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize("has_parts_only", [False, True])
def test_tokenizer_that_ships_passes_unchanged(tmp_path: Path, has_parts_only: bool) -> None:
    for file in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"):
        (tmp_path / file).write_bytes((SHIPPED / file).read_bytes())
    whole = Tokenizer(SHIPPED / "tokenizer.json")
    if has_parts_only:
        (tmp_path / "tokenizer.json").unlink()
    files = load_tokenizer_files(tmp_path)
    if not has_parts_only:
        assert files.files["tokenizer.json"] == (SHIPPED / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(files.files["tokenizer.json"])
    assert Tokenizer(tmp_path / "tokenizer.json").fingerprint == whole.fingerprint
    assert files.vocab_size == whole.vocab_size


def test_codegens_own_tokenizer_passes_unchanged(tmp_path: Path) -> None:
    """Give the folder of Salesforce/codegen-350M-mono's tokenizer in CODEGEN_EDGE_TOKENIZER; it does not ship."""
    folder = os.environ.get("CODEGEN_EDGE_TOKENIZER")
    if folder is None:
        pytest.skip("CODEGEN_EDGE_TOKENIZER names no folder with CodeGen's tokenizer")
    content = (Path(folder) / "tokenizer.json").read_bytes()
    files = load_tokenizer_files(Path(folder))
    assert files.files["tokenizer.json"] == content
    assert (files.vocab_size, files.end_of_text_id) == (50295, 50256)
    assert Tokenizer(Path(folder) / "tokenizer.json").encode("def f():\n    return 1")[:2] == [4299, 277]
