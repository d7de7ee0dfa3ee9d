"""Train the checkpoint that ships with us: python -m training.train.

From nothing but the running interpreter's own library: tokenizer, weights, model card and the texts kept apart.
Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from codegen_edge.bundle.storage import replace_file
from codegen_edge.checkpoints.corpora import SourceFile
from codegen_edge.cli.console import stderr
from codegen_edge.errors import CodegenEdgeError, InvalidInputError, RuntimeUnavailableError, StorageError
from codegen_edge.tokenizer import END_OF_TEXT
from training.library_source import fingerprint, read_library, standard_library
from training.settings import TrainingSettings
from training.text import TrainingText, batches, byte_counts, encode, pack
from training.tokenizer import train_tokenizer
from training.training import Trainer

_MEASURE_EVERY_STEPS = 100
_MEASURED_ROWS = 48  # of each split: some 80 kB of text
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_DEFAULTS = TrainingSettings()
_STATE, _LOG, _TOKENIZER = "state.pt", "log.jsonl", "tokenizer.json"


class Stop:
    """Ctrl-C and SIGTERM end the run after the step in flight, so that a step is taken whole or not at all."""

    def __init__(self) -> None:
        self.is_wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._want)

    def _want(self, signum: int, frame: FrameType | None) -> None:
        self.is_wanted = True


def require_writable(folder: Path) -> None:
    """Make `folder` where it is missing, and raise StorageError unless a file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot make the folder {folder}: {exc.strerror}") from exc
    probe = folder / ".writable"
    replace_file(probe, b"")
    probe.unlink()


def texts_of(files: list[SourceFile], split: str) -> list[str]:
    """The programs of a split."""
    return [file.text for file in files if file.split == split]


def load_or_train_tokenizer(path: Path, files: list[SourceFile], settings: TrainingSettings) -> Tokenizer:
    """The tokenizer that the saved state was trained with, or a new one."""
    if not path.exists():
        tokenizer = train_tokenizer(texts_of(files, "train"), settings.tokenizer_vocab_size)
        replace_file(path, tokenizer.to_str(pretty=True).encode())
    return Tokenizer.from_file(str(path))


def train(trainer: Trainer, splits: dict[str, TrainingText], work: Path, stop: Stop) -> None:
    """Take the steps that are left, measure and save every hundred steps and when stopped."""
    settings = trainer.settings
    fixed = np.random.default_rng(settings.seed)
    measured = {
        name: pack(splits[name].documents, settings.n_positions, fixed)[:_MEASURED_ROWS]
        for name in ("validation", "held-out")
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as progress:
        task = progress.add_task("training", total=settings.total_steps, completed=trainer.step)
        recent: list[float] = []
        for batch in batches(splits["train"], settings, trainer.step):
            if stop.is_wanted or trainer.step >= settings.total_steps:
                break
            started = time.monotonic()
            recent.append(trainer.train_step(batch))
            trainer.seconds += time.monotonic() - started
            _show(progress, task, trainer.step, recent)
            if trainer.step % _MEASURE_EVERY_STEPS == 0 or trainer.step == settings.total_steps:
                row: dict[str, float] = {"step": trainer.step, "tokens": trainer.step * settings.tokens_per_step}
                row |= {"seconds": round(trainer.seconds), "train": round(float(np.mean(recent)), 4)}
                row |= {name: round(trainer.bits_per_byte(rows), 4) for name, rows in measured.items()}
                trainer.log.append(row)
                recent.clear()
                keep(trainer, work)
    keep(trainer, work)


def keep(trainer: Trainer, work: Path) -> None:
    """Write the state, then the log that belongs to it."""
    trainer.save(work / _STATE)
    replace_file(work / _LOG, "".join(json.dumps(row) + "\n" for row in trainer.log).encode())


def _show(progress: Progress, task: TaskID, step: int, recent: list[float]) -> None:
    loss = sum(recent[-20:]) / len(recent[-20:])
    progress.update(task, completed=step, description=f"{loss:.3f} bits per byte")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Checkpoint folder to write; by default named by its size."
)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path(".train"), show_default=True, help="State and log."
)
@click.option("--library", type=click.Path(path_type=Path), help="Folder of programs instead of the running library.")
@click.option("--steps", "num_steps", default=_DEFAULTS.num_steps, show_default=True)
@click.option("--second-steps", "num_second_steps", default=_DEFAULTS.num_second_steps, show_default=True)
@click.option("--batch-size", default=_DEFAULTS.batch_size, show_default=True)
@click.option("--n-layer", default=_DEFAULTS.n_layer, show_default=True)
@click.option("--n-embd", default=_DEFAULTS.n_embd, show_default=True)
@click.option("--n-head", default=_DEFAULTS.n_head, show_default=True)
@click.option("--rotary-dim", default=_DEFAULTS.rotary_dim, show_default=True)
@click.option("--n-positions", default=_DEFAULTS.n_positions, show_default=True)
@click.option("--vocab-size", default=_DEFAULTS.vocab_size, show_default=True)
@click.option("--tokenizer-vocab-size", default=_DEFAULTS.tokenizer_vocab_size, show_default=True)
@click.option("--seed", default=_DEFAULTS.seed, show_default=True)
@click.option(
    "--compile", "is_compiled", is_flag=True, help="Let torch compile the model: faster, needs a C++ compiler."
)
@click.option("--threads", default=0, help="0 takes what torch takes.")
def main(out: Path | None, work: Path, library: Path | None, threads: int, is_compiled: bool, **settings: int) -> None:
    """Train a small CodeGen on the running interpreter's own library and write a checkpoint like the hub's.

    python -m training.train
    """
    plan = TrainingSettings(**settings)
    if importlib.util.find_spec("matplotlib") is None:  # reported now, not after an hour
        raise RuntimeUnavailableError("training draws its loss curve with matplotlib: pip install matplotlib")
    if threads:
        torch.set_num_threads(threads)
    require_writable(work)
    folder = library or standard_library()
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is not a folder: this interpreter came without its library's source")
    files = read_library(folder, **({"least_bytes": 1} if library else {}))
    tokenizer = load_or_train_tokenizer(work / _TOKENIZER, files, plan)
    end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
    assert end_of_text_id is not None  # every tokenizer of ours has one
    trainer = Trainer(
        plan,
        fingerprint(files),
        byte_counts(tokenizer, plan.vocab_size),
        end_of_text_id,
        is_compiled=is_compiled,
    )
    out = out or Path(__file__).resolve().parent / f"codegen-{round(trainer.num_parameters / 1e6)}M-mono"
    require_writable(out.parent)
    if (work / _STATE).exists():
        trainer.load(work / _STATE)
        stderr.print(f"going on from step {trainer.step} of {plan.total_steps}")
    stop = Stop()
    splits = {name: encode(tokenizer, texts_of(files, name)) for name in ("train", "validation", "held-out")}
    train(trainer, splits, work, stop)
    if stop.is_wanted:
        stderr.print(f"stopped after step {trainer.step}; the same command goes on from there")
        sys.exit(_INTERRUPTED)

    from training.publish import publish

    publish(trainer, tokenizer, files, out)
    stderr.print(f"wrote {out}")


if __name__ == "__main__":
    try:
        main()
    except CodegenEdgeError as exc:
        click.echo(f"error: {exc}", err=True)
        sys.exit(exc.exit_code)
