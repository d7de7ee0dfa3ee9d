"""The checkpoint that ships: its files, its card, and the number on it, measured again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from codegen_edge.bundle import Bundle
from codegen_edge.checkpoints import SHIPPED, shipped_checkpoint
from codegen_edge.checkpoints.corpora import FOLDER, SourceFile, load_corpus
from codegen_edge.errors import CheckpointError, InvalidInputError
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.evaluation.quality.perplexity import measure_perplexity
from codegen_edge.exporter import locate_checkpoint, open_checkpoint
from codegen_edge.runtimes import open_runtime
from codegen_edge.tokenizer import Tokenizer as TextTokenizer
from training.model_card import TrainingRecord, model_card

NAME = "codegen-5M-mono"
HUB_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
}


@pytest.fixture(scope="module")
def folder() -> Path:
    found = shipped_checkpoint(NAME)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def record(folder: Path) -> TrainingRecord:
    return TrainingRecord.from_dict(json.loads((folder / "training.json").read_text()))


def test_has_the_hubs_files_within_12_mb(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == HUB_FILES | {"loss_curve.svg", "training.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6


def test_shape_suits_every_backend(folder: Path) -> None:
    model = open_checkpoint(folder).model
    assert (model.head_dim, model.rotary_dim, model.num_heads % 4) == (64, 32, 0)
    assert model.context_length >= 512


def test_name_says_the_size(record: TrainingRecord) -> None:
    assert record.name == NAME == f"codegen-{round(record.num_parameters / 1e6)}M-mono"


def test_tokenizer_is_smaller_than_the_models_vocabulary_and_whole_in_every_form(folder: Path) -> None:
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert whole.get_vocab_size() < open_checkpoint(folder).model.vocab_size
    added = json.loads((folder / "added_tokens.json").read_text())
    start = whole.token_to_id("<|endoftext|>")
    assert start is not None
    assert added == {
        **{" " * n: start + 32 - n for n in range(2, 32)},
        **{"\t" * n: start + 40 - n for n in range(2, 10)},
    }
    from transformers import CodeGenTokenizer

    theirs = CodeGenTokenizer.from_pretrained(folder)
    for file in load_corpus("held-out"):
        ids = whole.encode(file.text, add_special_tokens=False).ids
        assert theirs(file.text)["input_ids"] == ids
        assert TextTokenizer(folder / "tokenizer.json").decode(ids) == file.text


def test_card_says_what_the_record_says(folder: Path, record: TrainingRecord) -> None:
    assert (folder / "README.md").read_text() == model_card(record)
    assert record.held_out["bits_per_byte"] <= 1.22
    assert record.seconds >= 3600


@pytest.mark.long
def test_bits_per_byte_of_the_card_measured_again(trained_bundle: Bundle, folder: Path) -> None:
    row = re.search(r"^\| bits per byte \| ([\d.]+) \| ([\d.]+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    runtime = open_runtime("cpu", trained_bundle)
    tokenizer = TextTokenizer(trained_bundle.tokenizer_path)
    measured = measure_perplexity(runtime, tokenizer, [file.text for file in load_corpus("held-out")])
    runtime.close()
    assert measured.bits_per_byte == pytest.approx(float(row[2]), rel=0.01)


def test_corpora_are_apart_and_of_a_useful_size() -> None:
    held_out, calibration = load_corpus("held-out"), load_corpus("calibration")
    assert not {file.sha256 for file in held_out} & {file.sha256 for file in calibration}
    for files, split in ((held_out, "held-out"), (calibration, "validation")):
        assert sum(len(file.text.encode()) for file in files) >= 64 * 1024
        assert {SourceFile.split.fget(file) for file in files} == {split}  # type: ignore[attr-defined]
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (FOLDER / "LICENSE-PSF.txt").read_text().upper()


def test_export_is_proved_equal_over_the_whole_context(trained_bundle: Bundle, folder: Path) -> None:
    report = verify_bundle(
        trained_bundle, open_checkpoint(folder), num_steps=8, prompts=["def read(path):\n    ", "import os\n" * 160]
    )
    assert report.is_equal, report.first_failure


def test_is_found_by_name_but_a_local_folder_goes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    located = locate_checkpoint(NAME)
    assert (located.folder, located.name, located.revision) == (folder, NAME, None)
    (tmp_path / NAME).mkdir()
    assert locate_checkpoint(NAME).folder.resolve() == tmp_path / NAME


def test_revision_of_a_shipped_checkpoint_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="ships with codegen-edge; a revision is for hub ids"):
        locate_checkpoint(NAME, revision="main")


def test_unknown_name_tells_what_ships() -> None:
    with pytest.raises(CheckpointError, match="codegen-5M-mono does"):
        locate_checkpoint("codegen-5m-mono")
    assert shipped_checkpoint("..") is None
    assert SHIPPED == (NAME,)
