"""What the checkpoint's README.md says, from the record of its training alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.settings import TrainingSettings

CURVE_FILE = "loss_curve.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """Everything that the model card states.

    Attributes:
        name: of the checkpoint.
        settings: of the training.
        num_parameters: weights and biases.
        python: version of the library that was trained on.
        split_bytes, split_files: sizes of the splits.
        data_sha256: fingerprint of all files.
        seconds: spent in steps.
        threads: that torch computed with.
        log: a row for each measurement, in bits per byte.
        held_out: `Perplexity.to_dict()` of the whole held-out split.
        held_out_sample: the same of the sample that ships with us.
    """

    name: str
    settings: TrainingSettings
    num_parameters: int
    python: str
    split_bytes: dict[str, int]
    split_files: dict[str, int]
    data_sha256: str
    seconds: float
    threads: int
    log: tuple[dict[str, float], ...]
    held_out: dict[str, Any]
    held_out_sample: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainingRecord:
        """From what `to_dict` gave."""
        settings = TrainingSettings(**fields["settings"])
        return cls(**fields | {"settings": settings, "log": tuple(fields["log"])})


def model_card(record: TrainingRecord) -> str:
    """README.md of the checkpoint, with the hub's front matter."""
    settings, held_out, held_out_sample = record.settings, record.held_out, record.held_out_sample
    num_tokens = settings.total_steps * settings.tokens_per_step
    heads = f"{settings.n_head} (heads of {settings.n_embd // settings.n_head})"
    rows = "\n".join(
        f"| {split} | {record.split_files[split]} | {record.split_bytes[split] / 1e6:.2f} MB |"
        for split in ("train", "validation", "held-out")
    )
    return f"""---
license: psf-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
tags: [codegen, python]
---

# {record.name}

A CodeGenForCausalLM of {record.num_parameters:,} parameters, trained from scratch on the Python standard library.
It ships with codegen-edge so that export, quantization, generation and evaluation can be tried and tested on a model
that learnt something, without a network. It is no Salesforce model and has none of their weights.

| | held-out split | the sample that ships |
|---|---|---|
| bits per byte | {held_out["bits_per_byte"]:.4f} | {held_out_sample["bits_per_byte"]:.4f} |
| perplexity of a token | {held_out["perplexity"]:.3f} | {held_out_sample["perplexity"]:.3f} |
| files | {held_out["num_documents"]} | {held_out_sample["num_documents"]} |
| bytes | {held_out["num_bytes"]:,} | {held_out_sample["num_bytes"]:,} |

Measured on these float16 weights, each file by itself, every token with at least half a context of past.
The sample is `corpora/held-out.jsonl` beside this folder, so that the second column can be measured again:
`codegen-edge evaluate BUNDLE`.

![Loss in bits per byte over the training tokens]({CURVE_FILE})

## What it can and cannot do

It continues Python with sound indentation and the library's idioms. At temperatures up to 0.8 most of what it writes
behind the beginning of a file parses, and half or more of what it writes behind a bare `def `; it repeats itself when
it has read little (benchmarks/results/parse_rate.json in the repository).
It does not solve tasks: it has seen {num_tokens / 1e6:.1f} million tokens, and what it writes is plausible, not right.
Its context is {settings.n_positions} tokens. It may repeat pieces of the standard library.

## Model

| | |
|---|---|
| n_layer, n_embd, n_head | {settings.n_layer}, {settings.n_embd}, {heads} |
| rotary_dim, n_positions | {settings.rotary_dim}, {settings.n_positions} |
| vocabulary of the model | {settings.vocab_size} |
| vocabulary of the tokenizer | {settings.tokenizer_vocab_size} + `<|endoftext|>` + runs of 31…2 spaces and 9…2 tabs |
| weights | float16 |

## Data

The `Lib` folder of Python {record.python}, its tests included, copies and undecodable files left out; the hash of a
file's content decides its split. Fingerprint of all files: `{record.data_sha256}`.

| split | files | size |
|---|---|---|
{rows}

The validation split was watched while training and is where `corpora/calibration.jsonl` comes from. The held-out
split was logged, and once seen when the plan was made longer; it decided nothing else.
Licence of the data: [PSF-2.0](https://docs.python.org/3/license.html), beside it as `corpora/LICENSE-PSF.txt`; the
weights are given under the same.

## Training

{settings.num_steps} steps of {settings.batch_size} rows of {settings.n_positions} tokens cut anywhere, then
{settings.num_second_steps} of which every other one is over rows of {settings.short_length} tokens that begin where a
statement begins, so that the model knows short prompts: {num_tokens / 1e6:.1f} million tokens in
{record.seconds / 60:.0f} minutes on {record.threads} CPU threads, seed {settings.seed}. Muon for the matrices inside
the blocks, AdamW for the rest, the step length falling to zero in either stage. `make train` does it again.
"""


def draw_curve(record: TrainingRecord, path: Path) -> None:
    """Draw the log's losses over the training tokens, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "codegen-edge"  # the same picture from the same numbers
    figure, axes = plt.subplots(figsize=(7, 3.2))
    tokens = [row["tokens"] / 1e6 for row in record.log]
    for split, color in (("train", "#c4ccd8"), ("validation", "tab:blue"), ("held-out", "tab:orange")):
        axes.plot(tokens, [row[split] for row in record.log], label=split, color=color)
    axes.set_xlabel("million tokens")
    axes.set_ylabel("bits per byte")
    lowest = min(min(row[split] for split in ("train", "validation", "held-out")) for row in record.log)
    axes.set_ylim(lowest - 0.05, max(2.2, min(2.6, max(row["train"] for row in record.log))))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
