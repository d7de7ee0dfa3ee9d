from __future__ import annotations

import itertools
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from codegen_edge.errors import CheckpointError, InvalidInputError
from training.muon import Muon, orthogonalized
from training.settings import TrainingSettings
from training.text import batches, byte_counts, encode, pack
from training.tokenizer import train_tokenizer
from training.training import Trainer, learning_rate_share, new_model

SETTINGS = TrainingSettings(
    n_layer=2,
    n_embd=64,
    n_head=4,
    rotary_dim=16,
    n_positions=32,
    vocab_size=640,
    tokenizer_vocab_size=320,
    batch_size=4,
    num_steps=6,
    num_second_steps=4,
)
NAMES = random.Random(0).choices(["".join(p) for p in itertools.product("abcde", "ou", "lmnr", "ei", "st")], k=40)
TEXTS = [f"def {name}(x):\n        return x + {n}  # Grüße\n\tif x:\n\t\tpass\n" * 3 for n, name in enumerate(NAMES)]
TOKENIZER = train_tokenizer(TEXTS, SETTINGS.tokenizer_vocab_size)
TEXT = encode(TOKENIZER, TEXTS)
DOCUMENTS = TEXT.documents
END_OF_TEXT_ID = 320


def new_trainer(settings: TrainingSettings = SETTINGS, data_sha256: str = "d") -> Trainer:
    return Trainer(settings, data_sha256, byte_counts(TOKENIZER, settings.vocab_size), END_OF_TEXT_ID)


def test_tokenizer_has_codegens_structure_and_learnt_no_runs() -> None:
    added = {token_id: token.content for token_id, token in TOKENIZER.get_added_tokens_decoder().items()}
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    assert [added[token_id] for token_id in sorted(added)] == ["<|endoftext|>", *runs]
    assert min(added) == END_OF_TEXT_ID
    learnt = [token for token, token_id in TOKENIZER.get_vocab().items() if token_id < END_OF_TEXT_ID]
    assert not [token for token in learnt if "ĠĠ" in token or "ĉĉ" in token]


def test_byte_counts_add_up_to_the_text() -> None:
    counts = byte_counts(TOKENIZER, SETTINGS.vocab_size).numpy()
    assert [int(counts[ids].sum()) for ids in DOCUMENTS] == [len(text.encode()) for text in TEXTS]


def test_fused_kernels_compute_what_transformers_computes() -> None:
    from transformers import CodeGenConfig, CodeGenForCausalLM

    fused = new_model(SETTINGS, END_OF_TEXT_ID)
    plain = CodeGenForCausalLM(CodeGenConfig(**SETTINGS.config(END_OF_TEXT_ID))).train()
    plain.load_state_dict(fused.state_dict())
    ids = torch.from_numpy(np.concatenate(DOCUMENTS)[: 4 * 32].reshape(4, 32))
    outputs = [model(input_ids=ids, labels=ids, use_cache=False) for model in (fused, plain)]
    for output in outputs:
        output.loss.backward()
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-4, atol=1e-5)
    gradients = [dict(model.named_parameters()) for model in (fused, plain)]
    for name, parameter in gradients[0].items():
        torch.testing.assert_close(parameter.grad, gradients[1][name].grad, rtol=1e-3, atol=1e-6, msg=name)


def test_training_lowers_the_loss() -> None:
    trainer = new_trainer(TrainingSettings(**{**_fields(SETTINGS), "num_steps": 60}))
    losses = [trainer.train_step(batch) for batch in islice(batches(TEXT, trainer.settings, 0), 60)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = new_trainer()
    for batch in islice(batches(TEXT, SETTINGS, 0), SETTINGS.total_steps):
        whole.train_step(batch)
    first = new_trainer()
    for batch in islice(batches(TEXT, SETTINGS, 0), 3):
        first.train_step(batch)
    first.save(tmp_path / "state.pt")
    second = new_trainer()
    second.load(tmp_path / "state.pt")
    assert second.step == 3
    for batch in islice(batches(TEXT, SETTINGS, second.step), SETTINGS.total_steps - 3):
        second.train_step(batch)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 1}, "another shape: n_layer 2, now 1"),
        ({"n_embd": 128, "vocab_size": 704}, "another shape: n_embd 64, now 128, vocab_size 640, now 704"),
        ({"batch_size": 2}, "another plan: batch_size 4, now 2"),
        ({"seed": 1}, "another plan: seed 0, now 1"),
    ],
)
def test_state_of_other_settings_is_refused(change: dict[str, int], message: str, tmp_path: Path) -> None:
    new_trainer().save(tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=message):
        new_trainer(TrainingSettings(**{**_fields(SETTINGS), **change})).load(tmp_path / "state.pt")


def test_number_of_steps_may_change_while_the_step_length_is_level_only(tmp_path: Path) -> None:
    trainer = new_trainer()
    longer = TrainingSettings(**{**_fields(SETTINGS), "num_steps": 600})
    for step, is_level in ((2, True), (3, False)):
        trainer.step = step
        trainer.save(tmp_path / "state.pt")
        if is_level:
            new_trainer(longer).load(tmp_path / "state.pt")
        else:
            with pytest.raises(CheckpointError, match="at step 3 of 6, too far to make it 600 steps"):
                new_trainer(longer).load(tmp_path / "state.pt")


def test_state_of_other_text_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    new_trainer().save(path)
    with pytest.raises(CheckpointError, match="trained on other files"):
        new_trainer(data_sha256="other").load(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="is damaged"):
        new_trainer().load(path)
    path.write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="is damaged"):
        new_trainer().load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 6}, "n_head must be a multiple of 4"),
        ({"n_embd": 66}, "n_head must be a multiple of 4"),
        ({"rotary_dim": 15}, "rotary_dim must be even"),
        ({"rotary_dim": 32}, "rotary_dim must be even"),
        ({"tokenizer_vocab_size": 640}, "at most vocab_size"),
        ({"tokenizer_vocab_size": 200}, "256 bytes"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_second_steps": -1}, "num_second_steps must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TrainingSettings(**{**_fields(SETTINGS), **change})


def test_rows_hold_every_token_of_an_epoch_once() -> None:
    rows = pack(DOCUMENTS, 32, np.random.default_rng(0))
    seen = np.sort(rows[:, :-1].ravel())
    everything = np.concatenate(DOCUMENTS)
    assert len(everything) - len(seen) <= 32
    difference = np.bincount(everything, minlength=640) - np.bincount(seen, minlength=640)
    assert difference.min() >= 0


def test_batches_go_on_in_the_next_epoch_in_another_order_and_can_start_anywhere() -> None:
    stream = list(islice(batches(TEXT, SETTINGS, 0), 60))
    per_epoch = len(pack(DOCUMENTS, 32, np.random.default_rng(0))) // SETTINGS.batch_size
    assert per_epoch < 60
    assert not np.array_equal(stream[0], stream[per_epoch])
    np.testing.assert_array_equal(next(batches(TEXT, SETTINGS, 40)), stream[40])


def test_too_little_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="less than one row"):
        next(batches(replace(TEXT, documents=[np.arange(5)]), SETTINGS, 0))
    with pytest.raises(InvalidInputError, match="fewer than a batch"):
        next(batches(replace(TEXT, documents=[np.arange(70)]), SETTINGS, 0))
    with pytest.raises(InvalidInputError, match="no statement with"):
        next(batches(replace(TEXT, statement_starts=np.zeros(0, np.int64)), SETTINGS, SETTINGS.num_steps))


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_orthogonalized_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_minimizes() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    target = torch.eye(8)
    optimizer = Muon([weight], lr=0.02)
    for _ in range(100):
        ((weight - target) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert ((weight - target) ** 2).sum() < 0.1


def test_step_length_rises_stays_and_falls_to_zero_twice() -> None:
    settings = replace(SETTINGS, num_steps=1000, num_second_steps=100)
    shares = [learning_rate_share(step, settings) for step in range(1101)]
    assert shares[0] < 0.1
    assert shares[100] == shares[300] == 1.0
    assert shares[999] < 0.01
    assert shares[1000] == 0.3
    assert shares[1100] == 0.0
    for stage in (shares[300:1000], shares[1000:]):
        assert all(later <= earlier for earlier, later in itertools.pairwise(stage))


def test_second_stage_has_short_rows_that_begin_as_prompts_do() -> None:
    stream = list(islice(batches(TEXT, SETTINGS, 0), SETTINGS.num_steps + 40))
    long, second = stream[: SETTINGS.num_steps], stream[SETTINGS.num_steps :]
    assert {batch.shape for batch in long} == {(4, 33)}
    assert [batch.shape for batch in second[:4]] == [(16, 9), (4, 33), (16, 9), (4, 33)]
    np.testing.assert_array_equal(next(batches(TEXT, SETTINGS, SETTINGS.num_steps + 2)), second[2])
    begun = [TOKENIZER.decode(row.tolist(), skip_special_tokens=False) for batch in second[::2] for row in batch]
    assert all(text.startswith(("def ", "<|endoftext|>def ", "<|")) for text in begun)
    assert len({text[:8] for text in begun}) > 20
    # A prompt's end falls within what is one token in a text that is encoded whole.
    whole = [TOKENIZER.encode(text, add_special_tokens=False).ids for text in begun]
    rows = [row.tolist() for batch in second[::2] for row in batch]
    assert sum(row != ids for row, ids in zip(rows, whole, strict=True)) > len(rows) / 4


def test_statements_are_lines_at_the_margin() -> None:
    text = encode(TOKENIZER, ["x = 1\n\n\ndef f():\n    return 2\nclass A:\n\tpass\n", "import os\n"])
    joined = np.concatenate(text.documents)
    lines = [TOKENIZER.decode(joined[start : start + 2].tolist()) for start in text.statement_starts]
    # The second file begins twice: with its end of text, and behind it.
    assert [line[0] for line in lines] == list("xdcii")


def test_length_of_the_second_stage_is_settled_when_it_begins(tmp_path: Path) -> None:
    longer = new_trainer(replace(SETTINGS, num_second_steps=8))
    for step, is_settled in ((6, False), (7, True)):
        trainer = new_trainer()
        trainer.step = step
        trainer.save(tmp_path / "state.pt")
        if is_settled:
            with pytest.raises(CheckpointError, match="in a second stage of 4 steps"):
                longer.load(tmp_path / "state.pt")
        else:
            longer.load(tmp_path / "state.pt")


def _fields(settings: TrainingSettings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in TrainingSettings.__dataclass_fields__}
