"""The shape of a CodeGen model, read from `config.json` without transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.errors import UnsupportedModelError
from codegen_edge.strict_json import parse_object

# CodeGen's weights were laid out for four TPU cores; its qkv rows come in that many partitions.
QKV_PARTITIONS = 4

# Far beyond any CodeGen. What a config alone decides must not exhaust memory before the weights are looked at.
_LIMITS = {"context_length": 2**20, "num_layers": 2**12}
_MAX_JSON_BYTES = 16 * 1024 * 1024  # the hub's largest (tokenizer_config, index) stay far below


def read_json_object(path: Path, error: type[Exception], *, shown: Path | None = None) -> dict[str, Any]:
    """Read a JSON object from `path`, or raise `error` with one line that names the file, as `shown` where given."""
    shown = shown or path
    try:
        if not path.is_file():  # a pipe or a device would block
            raise error(f"{shown} is {'no file' if path.exists() else 'missing'}")
        with path.open("rb") as file:
            content = file.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise error(f"{shown} has more than the {_MAX_JSON_BYTES} bytes that were expected of it")
        return parse_object(content)
    except (OSError, ValueError) as exc:
        raise error(f"{shown} cannot be read as JSON: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a runtime must know of a CodeGen model.

    Attributes:
        vocab_size: rows of the embedding and of the LM head (V); may exceed the tokenizer's size.
        context_length: the most tokens a sequence may have.
        num_layers: number of blocks (L).
        num_heads: attention heads (H), a multiple of 4.
        head_dim: features of a head (D); `hidden_size == num_heads * head_dim`.
        rotary_dim: leading features of each head that rotate; even, at most `head_dim`.
        inner_size: features of the MLP.
        eos_token_id: the id that ends a text.

    Raises:
        UnsupportedModelError: from the constructor, when a number cannot be a CodeGen model's.
    """

    vocab_size: int
    context_length: int
    num_layers: int
    num_heads: int
    head_dim: int
    rotary_dim: int
    inner_size: int
    eos_token_id: int

    @property
    def hidden_size(self) -> int:
        """Features of the residual stream, `num_heads * head_dim`."""
        return self.num_heads * self.head_dim

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "context_length",
            "num_layers",
            "num_heads",
            "head_dim",
            "rotary_dim",
            "inner_size",
        ):
            if type(getattr(self, name)) is not int:
                raise UnsupportedModelError(f"{name} must be an integer, got {getattr(self, name)!r}")
            if getattr(self, name) < 1:
                raise UnsupportedModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, limit in _LIMITS.items():
            if getattr(self, name) > limit:
                raise UnsupportedModelError(f"{name} must be at most {limit}, got {getattr(self, name)}")
        if self.num_heads % QKV_PARTITIONS:
            raise UnsupportedModelError(
                f"n_head must be a multiple of {QKV_PARTITIONS} (the qkv partitions), got {self.num_heads}"
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise UnsupportedModelError(
                f"rotary_dim must be even and at most head_dim {self.head_dim}, got {self.rotary_dim}"
            )
        if type(self.eos_token_id) is not int or not 0 <= self.eos_token_id < self.vocab_size:
            raise UnsupportedModelError(
                f"eos_token_id {self.eos_token_id} is outside the vocabulary of {self.vocab_size}"
            )

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ModelConfig:
        """Read the names that the hub's `config.json` uses (n_embd, n_head, …)."""
        hidden_size = _integer(config, "n_embd")
        num_heads = _integer(config, "n_head")
        if num_heads < 1 or hidden_size % num_heads:
            raise UnsupportedModelError(f"n_head {num_heads} does not divide n_embd {hidden_size}")
        inner_size = 4 * hidden_size if config.get("n_inner") is None else _integer(config, "n_inner")
        return cls(
            vocab_size=_integer(config, "vocab_size"),
            context_length=_integer(config, "n_positions"),
            num_layers=_integer(config, "n_layer"),
            num_heads=num_heads,
            head_dim=hidden_size // num_heads,
            rotary_dim=_integer(config, "rotary_dim"),
            inner_size=inner_size,
            eos_token_id=_integer(config, "eos_token_id"),
        )


def _integer(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnsupportedModelError(f"config.json: {name} must be an integer, got {value!r}")
    return value
