"""Training a CodeGenForCausalLM: the model, one step, the saved state."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from codegen_edge.bundle.storage import replace_file
from codegen_edge.errors import CheckpointError
from training.muon import Muon
from training.settings import SHAPE, TrainingSettings

# What a state must agree in to be gone on with, beside the shape.
_PLAN = ("tokenizer_vocab_size", "batch_size", "seed")
_WARMUP_STEPS = 40
_DECAY_SHARE = 0.6  # of the steps, at the end, in which the step length falls to zero
_ADAM_LR = 5e-3  # embedding table, LM head, biases and norms
_MUON_LR = 0.02  # matrices inside the blocks
_SECOND_STAGE_SHARE = 0.3  # of the step length, at the start of the second stage
# Without it the matrices grow with every step of Muon, scores of attention reach the hundreds, and the model then
# turns the least rounding of a weight into another choice of key: it could not be quantized well.
_WEIGHT_DECAY = 0.1  # of every matrix, times the step length


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
        for names, what in ((SHAPE, "a checkpoint of another shape"), (_PLAN, "a run of another plan")):
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
