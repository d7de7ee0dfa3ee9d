"""Training a CodeGenForCausalLM: the settings, the model, the order of the text, one step, the saved state."""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional

from codegen_edge.bundle.storage import replace_file
from codegen_edge.errors import CheckpointError, InvalidInputError
from codegen_edge.tokenizer import END_OF_TEXT
from training.muon import Muon

_WARMUP_STEPS = 40
_DECAY_SHARE = 0.6  # of the steps, at the end, in which the step length falls to zero
_ADAM_LR = 5e-3  # embedding table, LM head, biases and norms
_MUON_LR = 0.02  # matrices inside the blocks
_SECOND_STAGE_SHARE = 0.3  # of the step length, at the start of the second stage
# Without it the matrices grow with every step of Muon, scores of attention reach the hundreds, and the model then
# turns the least rounding of a weight into another choice of key: it could not be quantized well.
_WEIGHT_DECAY = 0.1  # of every matrix, times the step length

_PROMPT_CHARACTERS = 32  # within which a short row's text is cut

# As byte-level BPE writes them; runs of spaces and tabs are written as they are.
_NEWLINE, _WHITESPACE = "Ċ", "ĊĠĉ \t"

# What a state must agree in to be gone on with.
_SHAPE = ("n_layer", "n_embd", "n_head", "rotary_dim", "n_positions", "vocab_size")
_PLAN = ("tokenizer_vocab_size", "batch_size", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """What is trained, and for how long. The shape has the hub's names.

    Attributes:
        tokenizer_vocab_size: ids that byte-level BPE may use, before `<|endoftext|>` and the runs are added.
        batch_size: rows of `n_positions` tokens in a step.
        num_steps: steps of the first stage, over rows of `n_positions` tokens cut anywhere.
        num_second_steps: steps of the second stage, every other one over rows of a quarter that begin where a statement
            at the left margin begins, their text cut as a prompt's end cuts it. Without them the model hardly ever sees
            so little past as a short prompt gives, nor a lone space as its last token, and what it writes is noise.
        seed: of the weights and of the order of the text.
    """

    n_layer: int = 4
    n_embd: int = 256
    n_head: int = 4
    rotary_dim: int = 32
    n_positions: int = 512
    vocab_size: int = 4096
    tokenizer_vocab_size: int = 4000
    batch_size: int = 8
    num_steps: int = 2400
    num_second_steps: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*_SHAPE, "tokenizer_vocab_size", "batch_size", "num_steps"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_second_steps < 0:
            raise InvalidInputError(f"num_second_steps must be at least 0, got {self.num_second_steps}")
        if self.n_head % 4 or self.n_embd % self.n_head:
            raise InvalidInputError(f"n_head must be a multiple of 4 that divides n_embd, got {self.n_head}")
        if self.rotary_dim % 2 or self.rotary_dim > self.n_embd // self.n_head:
            raise InvalidInputError(f"rotary_dim must be even and at most n_embd / n_head, got {self.rotary_dim}")
        if self.tokenizer_vocab_size < 256 or self.tokenizer_vocab_size + 39 > self.vocab_size:
            raise InvalidInputError(
                "tokenizer_vocab_size must be at least the 256 bytes and, with the 39 added tokens, at most "
                f"vocab_size, got {self.tokenizer_vocab_size}"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in a step."""
        return self.batch_size * self.n_positions

    @property
    def total_steps(self) -> int:
        """Steps of both stages."""
        return self.num_steps + self.num_second_steps

    @property
    def short_length(self) -> int:
        """Tokens of a short row."""
        return max(1, self.n_positions // 4)

    def is_short(self, step: int) -> bool:
        """Whether `step`, counted from 0, is over short rows."""
        return step >= self.num_steps and (step - self.num_steps) % 2 == 0

    def config(self, end_of_text_id: int) -> dict[str, Any]:
        """config.json as on the hub."""
        return {
            "activation_function": "gelu_new",
            "architectures": ["CodeGenForCausalLM"],
            "attn_pdrop": 0.0,
            "bos_token_id": end_of_text_id,
            "embd_pdrop": 0.0,
            "eos_token_id": end_of_text_id,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "codegen",
            "n_ctx": self.n_positions,
            "n_embd": self.n_embd,
            "n_head": self.n_head,
            "n_inner": None,
            "n_layer": self.n_layer,
            "n_positions": self.n_positions,
            "resid_pdrop": 0.0,
            "rotary_dim": self.rotary_dim,
            "scale_attn_weights": True,
            "tie_word_embeddings": False,
            "tokenizer_class": "CodeGenTokenizer",
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }


def new_model(settings: TrainingSettings, end_of_text_id: int) -> Any:
    """transformers' own CodeGenForCausalLM with fresh weights, its attention and activation computed by fused kernels.

    Both compute what transformers computes: causal softmax(q k' / sqrt(head_dim)) v, and the tanh form of GELU.
    """
    from transformers import CodeGenConfig, CodeGenForCausalLM

    torch.manual_seed(settings.seed)  # transformers draws from the global generator
    model = CodeGenForCausalLM(CodeGenConfig(**settings.config(end_of_text_id)))
    for block in model.transformer.h:
        block.attn._attn = _causal_attention
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    return model.train()


def _causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, None]:
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True), None


def pack(documents: Iterable[NDArray[np.int64]], length: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Join `documents` in random order, cut them to rows [N, length + 1] that overlap by a token, and mix those."""
    shuffled = list(documents)
    generator.shuffle(shuffled)
    stream = np.concatenate(shuffled)
    num_rows = (len(stream) - 1) // length
    if num_rows < 1:
        raise InvalidInputError(f"a split of {len(stream)} tokens is less than one row of {length}")
    starts = np.arange(num_rows) * length
    generator.shuffle(starts)
    rows: NDArray[np.int64] = stream[starts[:, None] + np.arange(length + 1)]
    return rows


def batches(text: TrainingText, settings: TrainingSettings, first: int) -> Iterator[NDArray[np.int64]]:
    """The batches [B, T + 1] of steps `first`, `first` + 1, …; which text a step sees depends on the seed alone."""
    long = _long_batches(text.documents, settings)
    stream = np.concatenate(text.documents)
    for step in itertools.count():
        if not settings.is_short(step):
            batch = next(long)
            if step >= first:
                yield batch
        elif step >= first:
            yield _short_batch(text, stream, settings, np.random.default_rng((settings.seed, step, 1)))


def _short_batch(
    text: TrainingText, stream: NDArray[np.int64], settings: TrainingSettings, generator: np.random.Generator
) -> NDArray[np.int64]:
    """[B', short_length + 1] with as many tokens as a batch of long rows, each begun at a statement and tokenized as if
    its first characters were the prompt."""
    length = settings.short_length + 1
    source = 2 * length  # a text cut in two may make fewer tokens, never half
    starts = text.statement_starts[text.statement_starts < len(stream) - source]
    if not len(starts):
        raise InvalidInputError(f"the training text has no statement with {source} tokens behind it")
    rows = []
    for start in generator.choice(starts, settings.tokens_per_step // settings.short_length):
        ids = stream[start : start + source]
        characters = text.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        cut = _prompt_end(characters, generator)
        parts = text.tokenizer.encode_batch_fast([characters[:cut], characters[cut:]], add_special_tokens=False)
        rows.append([*parts[0].ids, *parts[1].ids][:length])
    return np.array(rows, np.int64)


def _prompt_end(characters: str, generator: np.random.Generator) -> int:
    """Where a prompt that begins these characters might end: one time in two behind a space."""
    spaces = [n for n, character in enumerate(characters[:_PROMPT_CHARACTERS], 1) if character == " "]
    if spaces and generator.random() < 0.5:
        return int(generator.choice(spaces))
    return int(generator.integers(1, _PROMPT_CHARACTERS + 1))


def _long_batches(documents: list[NDArray[np.int64]], settings: TrainingSettings) -> Iterator[NDArray[np.int64]]:
    for epoch in itertools.count():
        rows = pack(documents, settings.n_positions, np.random.default_rng((settings.seed, epoch)))
        if len(rows) < settings.batch_size:
            raise InvalidInputError(f"the training text makes {len(rows)} rows, fewer than a batch")
        for start in range(0, len(rows) - settings.batch_size + 1, settings.batch_size):
            yield rows[start : start + settings.batch_size]


@dataclass(slots=True)
class Trainer:
    """A model under training.

    Attributes:
        settings: what is trained.
        data_sha256: fingerprint of the files, so that a state is never gone on with over other text.
        byte_counts: [V] bytes that each token stands for; 0 for `<|endoftext|>`.
        end_of_text_id: of the tokenizer.
        step: how many steps are done.
        seconds: how long they took, over all sittings.
        log: one row for each measurement.
        is_compiled: whether torch compiles the model, which needs a C++ compiler and saves time.
    """

    settings: TrainingSettings
    data_sha256: str
    byte_counts: torch.Tensor
    end_of_text_id: int
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    is_compiled: bool = False
    model: Any = field(init=False)
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = field(init=False)
    _forward: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = new_model(self.settings, self.end_of_text_id)
        self._forward = torch.compile(self.model, dynamic=False) if self.is_compiled else self.model
        matrices: list[torch.nn.Parameter] = []
        tables: list[torch.nn.Parameter] = []
        vectors: list[torch.nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 1:
                vectors.append(parameter)
            else:
                (matrices if name.startswith("transformer.h.") else tables).append(parameter)
        groups = [{"params": tables, "weight_decay": _WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizers = (
            Muon(matrices, lr=_MUON_LR, weight_decay=_WEIGHT_DECAY),
            torch.optim.AdamW(groups, lr=_ADAM_LR, betas=(0.9, 0.95), fused=True),
        )

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def train_step(self, batch: NDArray[np.int64]) -> float:
        """Take one step over `batch` [B, T + 1] and return its loss in bits a byte, from before the step."""
        share = learning_rate_share(self.step, self.settings)
        nll, num_bytes, num_tokens = self._loss(torch.from_numpy(batch))
        if not torch.isfinite(nll):
            raise CheckpointError(f"the loss of step {self.step + 1} is {nll.item()}; train with another seed")
        (nll / num_tokens).backward()  # type: ignore[no-untyped-call]
        for optimizer, lr in zip(self.optimizers, (_MUON_LR, _ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return nll.item() / math.log(2) / num_bytes

    def bits_per_byte(self, rows: NDArray[np.int64]) -> float:
        """Loss over `rows` [N, T + 1]; quicker and a little higher than `evaluation.perplexity`, which gives every
        token half a context of past."""
        nll = num_bytes = 0.0
        with torch.inference_mode():
            for start in range(0, len(rows), self.settings.batch_size):
                losses = self._loss(torch.from_numpy(rows[start : start + self.settings.batch_size]))
                nll += losses[0].item()
                num_bytes += losses[1]
        return nll / math.log(2) / num_bytes

    def _loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """Summed loss in nats, and over how many bytes and tokens; an `<|endoftext|>` stands for no byte."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        num_bytes = int(self.byte_counts[targets].sum())
        positions = torch.arange(inputs.shape[1])[None]
        logits = self._forward(input_ids=inputs, position_ids=positions, use_cache=False).logits
        nll = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return nll, num_bytes, targets.numel()

    def save(self, path: Path) -> None:
        """Write everything that going on needs, in one step.

        Raises:
            StorageError: the folder cannot be written; the state before is intact.
        """
        content = {
            "settings": asdict(self.settings),
            "data_sha256": self.data_sha256,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        replace_file(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: the file is damaged, or is of another shape, plan or text. The number of steps may
                change as long as the step length has not begun to fall in either plan.
        """
        try:
            content = torch.load(path, weights_only=True)
            settings, data_sha256 = content["settings"], content["data_sha256"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as exc:
            raise CheckpointError(f"{path} is damaged ({type(exc).__name__}); remove it to start anew") from exc
        mine = asdict(self.settings)
        for names, what in ((_SHAPE, "a checkpoint of another shape"), (_PLAN, "a run of another plan")):
            differing = [
                f"{name} {settings.get(name)}, now {mine[name]}" for name in names if settings.get(name) != mine[name]
            ]
            if differing:
                raise CheckpointError(
                    f"{path} holds {what}: {', '.join(differing)}; give those settings, or remove it to start anew"
                )
        second_steps = settings.get("num_second_steps")
        if second_steps != mine["num_second_steps"] and content["step"] > mine["num_steps"]:
            raise CheckpointError(
                f"{path} is in a second stage of {second_steps} steps: give that number, or remove it"
            )
        fewest = min(settings["num_steps"], mine["num_steps"])
        if settings["num_steps"] != mine["num_steps"] and content["step"] > (1 - _DECAY_SHARE) * fewest:
            raise CheckpointError(
                f"{path} is at step {content['step']} of {settings['num_steps']}, too far to make it "
                f"{mine['num_steps']} steps: the step length falls already. Give that number, or remove the state"
            )
        if data_sha256 != self.data_sha256:
            raise CheckpointError(f"{path} was trained on other files than this library has; remove it to start anew")
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds, self.log = content["step"], content["seconds"], content["log"]


def learning_rate_share(step: int, settings: TrainingSettings) -> float:
    """Share of the full step length: up within the first steps, level, then straight down to zero; in the second stage
    down to zero again, from less."""
    if step >= settings.num_steps:
        return _SECOND_STAGE_SHARE * (settings.total_steps - step) / max(1, settings.num_second_steps)
    up = (step + 1) / _WARMUP_STEPS
    down = (settings.num_steps - step) / max(1.0, _DECAY_SHARE * settings.num_steps)
    return min(1.0, up, down)


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Text as ids.

    Attributes:
        tokenizer: that made the ids.
        documents: `<|endoftext|>` and the ids of each text.
        statement_starts: [N] where in the joined documents a line begins at the left margin, or a file.
    """

    tokenizer: Tokenizer
    documents: list[NDArray[np.int64]]
    statement_starts: NDArray[np.int64]


def encode(tokenizer: Tokenizer, texts: list[str]) -> TrainingText:
    """Encode the texts of a split."""
    end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
    documents = [
        np.array([end_of_text_id, *encoding.ids], np.int64)
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]
    ends_line = np.zeros(tokenizer.get_vocab_size(), bool)
    is_margin = np.zeros_like(ends_line)  # whether what begins with this token stands at the margin
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        ends_line[token_id] = token.endswith(_NEWLINE)
        is_margin[token_id] = token[0] not in _WHITESPACE
    ends_line[end_of_text_id] = True
    stream = np.concatenate(documents)
    begins_statement = ends_line[stream[:-1]] & is_margin[stream[1:]]
    starts = np.flatnonzero(begins_statement) + 1
    return TrainingText(tokenizer, documents, starts)


def byte_counts(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """[V] int64, the bytes that each id stands for: in byte-level BPE every letter of a token is one byte."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        counts[token_id] = 0 if token == END_OF_TEXT else len(token)
    return counts
