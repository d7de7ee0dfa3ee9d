"""What is trained, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codegen_edge.errors import InvalidInputError

SHAPE = ("n_layer", "n_embd", "n_head", "rotary_dim", "n_positions", "vocab_size")


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
        for name in (*SHAPE, "tokenizer_vocab_size", "batch_size", "num_steps"):
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
