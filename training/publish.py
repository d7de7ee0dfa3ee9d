"""From a trained model to a checkpoint in exactly the files that the hub's have, with its model card and corpora."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from codegen_edge.bundle.storage import storage_errors
from codegen_edge.checkpoints.corpora import CORPORA, SourceFile
from codegen_edge.evaluation.quality.perplexity import Perplexity, measure_perplexity
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.exporter.random_checkpoint import write_tokenizer
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.tokenizer import Tokenizer as TextTokenizer
from training.corpora import corpus_lines, sample
from training.library_source import standard_library
from training.model_card import CURVE_FILE, TrainingRecord, draw_curve, model_card
from training.training import Trainer

RECORD_FILE = "training.json"

Progress = Callable[[str, int, int], None]
"""What is measured, documents done, documents in all."""


def publish(
    trainer: Trainer, tokenizer: Tokenizer, files: list[SourceFile], out: Path, on_progress: Progress | None = None
) -> TrainingRecord:
    """Write the checkpoint folder `out`, and beside it the folder `corpora`.

    The held-out text is measured on the written float16 weights, by the reference runtime.

    Raises:
        StorageError: the disk is full or a folder cannot be written; running it again writes everything anew.
    """
    corpora = {name: sample(files, name) for name in CORPORA}
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_checkpoint(trainer, tokenizer, out)
        folder = out.parent / "corpora"
        folder.mkdir(exist_ok=True)
        for name, chosen in corpora.items():
            (folder / f"{name}.jsonl").write_bytes(corpus_lines(chosen))
        licence = standard_library() / "LICENSE.txt"
        if licence.is_file():
            shutil.copyfile(licence, folder / "LICENSE-PSF.txt")
    held_out = [file.text for file in files if file.split == "held-out"]
    record = TrainingRecord(
        name=out.name,
        settings=trainer.settings,
        num_parameters=trainer.num_parameters,
        python=".".join(map(str, sys.version_info[:3])),
        split_bytes={
            split: sum(len(file.text.encode()) for file in files if file.split == split)
            for split in ("train", "validation", "held-out")
        },
        split_files={
            split: sum(file.split == split for file in files) for split in ("train", "validation", "held-out")
        },
        data_sha256=trainer.data_sha256,
        seconds=trainer.seconds,
        threads=torch.get_num_threads(),
        log=tuple(trainer.log),
        held_out=measure(out, held_out, "held-out split", on_progress).to_dict(),
        held_out_sample=measure(out, [file.text for file in corpora["held-out"]], "sample", on_progress).to_dict(),
    )
    with storage_errors(out):
        (out / RECORD_FILE).write_text(json.dumps(record.to_dict(), indent=2) + "\n")
        draw_curve(record, out / CURVE_FILE)
        (out / "README.md").write_text(model_card(record), encoding="utf-8")
    return record


def write_checkpoint(trainer: Trainer, tokenizer: Tokenizer, out: Path) -> None:
    """Write config, float16 weights and tokenizer files under the hub's names."""
    config = trainer.settings.config(trainer.end_of_text_id)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": trainer.end_of_text_id, "eos_token_id": trainer.end_of_text_id}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in trainer.model.state_dict().items()}
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    write_tokenizer(out, tokenizer)


def measure(checkpoint: Path, documents: list[str], what: str, on_progress: Progress | None = None) -> Perplexity:
    """Perplexity of a checkpoint folder on `documents`, by the reference runtime."""
    opened = open_checkpoint(checkpoint)
    runtime: Any = ReferenceRuntime(load_reference_model(opened), opened.model)
    try:
        return measure_perplexity(
            runtime,
            TextTokenizer(checkpoint / "tokenizer.json"),
            documents,
            on_progress=None if on_progress is None else lambda done: on_progress(what, done, len(documents)),
        )
    finally:
        runtime.close()
