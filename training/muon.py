"""Muon: momentum whose every update is orthogonalized, for the matrices inside the blocks.

The algorithm and its coefficients: K. Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024).
torch.optim.Muon iterates in bfloat16, which is slow on processors without such instructions; that is why it is not
used here.
"""

from __future__ import annotations

from typing import Any

import torch

# The quintic iteration x <- a x + b (x x') x + c (x x')² x; steep at zero, so that five rounds suffice.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon in float32.

    Args:
        params: matrices.
        lr: step length as the root mean square of a row's change, before `sqrt(rows/columns)`.
        momentum: share of the past in the average of gradients.
        weight_decay: share of a weight that a step takes away, before `lr`. Decoupled from the gradient, as in AdamW.
    """

    def __init__(self, params: Any, *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov
                stretch = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonalized(ahead), alpha=-group["lr"] * stretch)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Bring every singular value of `matrix` [rows, columns] near one (0.7 … 1.2), by Newton-Schulz."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    result: torch.Tensor = x.T if is_tall else x
    return result
