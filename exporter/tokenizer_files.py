"""The tokenizer files of a checkpoint, completed with a `tokenizer.json` where there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from codegen_edge.errors import CheckpointError
from codegen_edge.exporter.json_files import read_strict_object
from codegen_edge.strict_json import parse_object
from codegen_edge.tokenizer import END_OF_TEXT
from codegen_edge.tokenizer_form import check_form, check_ids, check_vocabulary, read_bounded

_GPT2_SIZE = 50257  # ids of GPT-2's tokenizer
# What CodeGen adds to it, in this order: runs of 31 to 2 spaces (ids 50257 to 50286), then of 9 to 2 tabs (to 50294).
# Source: create_custom_gpt2_tokenizer in codegen1/jaxformer/hf/sample.py of salesforce/CodeGen.
_RUNS = (*(" " * length for length in range(31, 1, -1)), *("\t" * length for length in range(9, 1, -1)))
_COPIED = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What a bundle holds of a tokenizer.

    Attributes:
        files: content by file name; always with tokenizer.json and tokenizer_config.json.
        vocab_size: highest id plus one.
        end_of_text_id: id of `<|endoftext|>`, None when the vocabulary lacks it.
        repairs: what was changed, one sentence each.
    """

    files: dict[str, bytes]
    vocab_size: int
    end_of_text_id: int | None
    repairs: tuple[str, ...] = ()


def load_tokenizer_files(folder: Path, *, add_runs: bool = False) -> TokenizerFiles:
    """Read a checkpoint's tokenizer: `tokenizer.json`, or built from vocab.json, merges.txt and added_tokens.json.

    Args:
        folder: holds the files.
        add_runs: whether CodeGen's runs of spaces and tabs are added to a tokenizer that is GPT-2's.

    Raises:
        CheckpointError: neither is there, or a file is malformed.
    """
    files = {name: _read(folder / name) for name in _COPIED if (folder / name).is_file()}
    if (folder / "tokenizer.json").is_file():
        content = _read(folder / "tokenizer.json")
        try:
            check_form(content)
            tokenizer = Tokenizer.from_buffer(content)
        # The library raises bare Exception for every malformed file.
        except Exception as exc:
            raise CheckpointError(f"{folder / 'tokenizer.json'} is no tokenizer of CodeGen's form: {exc}") from exc
    elif {"vocab.json", "merges.txt"} <= files.keys():
        tokenizer = _build(folder, files)
        content = tokenizer.to_str(pretty=True).encode()
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is there; an export may "
            "take it from another folder, as from a download of GPT-2's or of the same model on the hub",
            hint="codegen-edge export … --tokenizer FOLDER",
        )
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        content = tokenizer.to_str(pretty=True).encode()
    repairs: tuple[str, ...] = ()
    if add_runs and tokenizer.get_vocab_size(with_added_tokens=True) == _GPT2_SIZE:
        tokenizer.add_tokens([AddedToken(run, normalized=True) for run in _RUNS])
        content = tokenizer.to_str(pretty=True).encode()
        added = {run: _GPT2_SIZE + place for place, run in enumerate(_RUNS)}
        files["added_tokens.json"] = (json.dumps(added, indent=2) + "\n").encode()
        repairs = (f"the tokenizer was GPT-2's; added CodeGen's {len(_RUNS)} runs of spaces and tabs",)
    files["tokenizer.json"] = content
    files["tokenizer_config.json"] = _config(folder)
    return TokenizerFiles(
        files=files,
        vocab_size=_checked_size(folder, tokenizer, content),
        end_of_text_id=tokenizer.token_to_id(END_OF_TEXT),
        repairs=repairs,
    )


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path)
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc


def _checked_size(folder: Path, tokenizer: Tokenizer, content: bytes) -> int:
    """Number of ids of a tokenizer whose final file, with what was added and built here, has CodeGen's form."""
    added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    try:
        ids = check_form(content)
        check_ids(ids, added, tokenizer.get_vocab_size(with_added_tokens=True))
    except ValueError as exc:
        raise CheckpointError(f"{folder}: this is no tokenizer of CodeGen's form: {exc}") from exc
    return len(ids)


def _build(folder: Path, files: dict[str, bytes]) -> Tokenizer:
    """Byte-level BPE as the hub's tokenizer.json has it: added runs of spaces and tabs, no prefix space."""
    try:
        check_vocabulary(parse_object(files["vocab.json"]))
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as exc:
        raise CheckpointError(f"{folder}: vocab.json and merges.txt make no tokenizer: {exc}") from exc
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    if (folder / "added_tokens.json").is_file():
        added = read_strict_object(folder / "added_tokens.json")
        try:
            check_vocabulary(added)
        except ValueError as exc:
            raise CheckpointError(f"{folder / 'added_tokens.json'} must map texts to ids: {exc}") from exc
        by_id = sorted(added.items(), key=lambda item: item[1])
        tokenizer.add_tokens([AddedToken(text, normalized=True) for text, _ in by_id])
        for text, token_id in by_id:
            if tokenizer.token_to_id(text) != token_id:
                raise CheckpointError(
                    f"{folder / 'added_tokens.json'} gives {text!r} the id {token_id}, which does not follow "
                    f"the vocabulary (it got {tokenizer.token_to_id(text)})"
                )
    return tokenizer


def _config(folder: Path) -> bytes:
    """tokenizer_config.json with the class that every client knows, and no clean-up of spaces in code."""
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = read_strict_object(path) if path.is_file() else {}
    config.pop("auto_map", None)
    config |= {"tokenizer_class": "CodeGenTokenizer", "clean_up_tokenization_spaces": False}
    for key in ("bos_token", "eos_token", "unk_token"):
        config.setdefault(key, END_OF_TEXT)
    config.setdefault("add_prefix_space", False)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
