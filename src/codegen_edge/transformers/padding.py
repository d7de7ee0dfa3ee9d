"""Padded batches as rows without padding: transformers counts columns, a runtime counts the tokens of each row.

B rows, T new columns, P columns of the past, S = P + T. A column is real where the attention mask is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

Mask = NDArray[np.bool_]
Ids = NDArray[np.int64]


def require_cpu(**tensors: object) -> None:
    """Raise InvalidInputError for a torch tensor on another device than cpu."""
    for name, tensor in tensors.items():
        device = getattr(tensor, "device", None)
        if device is not None and getattr(device, "type", "cpu") != "cpu":
            raise InvalidInputError(
                f"{name} is on {device}; pass it on cpu: the runtime moves what it computes with to its device itself"
            )


def token_array(input_ids: torch.Tensor) -> Ids:
    """[B, T] int64 of a tensor of ids."""
    require_cpu(input_ids=input_ids)
    if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
        raise InvalidInputError(
            f"input_ids must be a non-empty tensor of integers [B, T], got {input_ids.dtype} {tuple(input_ids.shape)}"
        )
    return np.ascontiguousarray(input_ids.detach().numpy(), np.int64)


def real_columns(attention_mask: torch.Tensor | None, shape: tuple[int, int], past: Mask) -> Mask:
    """[B, T] which of the new columns are real.

    Args:
        attention_mask: [B, S]; None means that every column is.
        shape: B and T.
        past: [B, P] which columns of the past are.

    Raises:
        InvalidInputError: the mask has another shape, or contradicts the past.
    """
    rows, num_new = shape
    if attention_mask is None:
        if not past.all():
            raise InvalidInputError("the past has padding; pass the attention_mask of the past and of the new tokens")
        return np.ones(shape, np.bool_)
    require_cpu(attention_mask=attention_mask)
    expected = (rows, past.shape[1] + num_new)
    if tuple(attention_mask.shape) != expected:
        raise InvalidInputError(
            f"attention_mask must be [B, past and new tokens] = {list(expected)}, got {list(attention_mask.shape)}"
        )
    mask: Mask = attention_mask.detach().numpy() != 0
    if not np.array_equal(mask[:, : past.shape[1]], past):
        raise InvalidInputError("attention_mask differs from the one that the past was computed with; start a new one")
    return mask[:, past.shape[1] :]


def check_positions(position_ids: torch.Tensor | None, is_real: Mask, past: Mask) -> None:
    """Raise InvalidInputError unless positions count the tokens of a row, or the columns where padding is left only.

    Rotary positions are relative, so both give the same logits. Positions of padding mean nothing.
    """
    if position_ids is None:
        return
    require_cpu(position_ids=position_ids)
    if position_ids.ndim != 2 or position_ids.shape[-1] != is_real.shape[1]:
        raise InvalidInputError(
            f"position_ids must be [B, new tokens] = {list(is_real.shape)}, got {list(position_ids.shape)}"
        )
    given = np.broadcast_to(position_ids.detach().numpy(), is_real.shape)
    columns = np.concatenate([past, is_real], axis=1)
    counted = np.cumsum(columns, axis=1) - 1
    numbered = np.broadcast_to(np.arange(columns.shape[1]), columns.shape)
    has_holes = np.array(
        [len(set(row[real].tolist())) > 1 for row, real in zip(numbered - counted, columns, strict=True)]
    )
    start = past.shape[1]
    by_token = ((given == counted[:, start:]) | ~is_real).all(axis=1)
    by_column = ((given == numbered[:, start:]) | ~is_real).all(axis=1) & ~has_holes
    wrong = np.flatnonzero(~(by_token | by_column))
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInputError(
            f"position_ids of row {row} contradict the attention_mask: its tokens stand at "
            f"{counted[row, start:][is_real[row]].tolist()}, got {given[row][is_real[row]].tolist()}; leave them out"
        )


def compact(token_ids: Ids, is_real: Mask) -> tuple[Ids, NDArray[np.int64]]:
    """The real tokens of each row, moved left: [B, most of a row] and [B] how many."""
    counts = is_real.sum(axis=1)
    rows = np.zeros((len(token_ids), max(1, int(counts.max()))), np.int64)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = token_ids[is_real]
    return rows, counts
