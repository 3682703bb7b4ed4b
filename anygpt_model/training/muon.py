"""Muon: momentum whose matrices are brought near to orthogonal ones before they are subtracted (Jordan, 2024).

torch's own computes in bfloat16 always, fifty times slower on a CPU that lacks it; this one computes in the gradient's
dtype, and the matrices of one shape together. Knows no network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration that pulls all singular values near one."""


class Muon(torch.optim.Optimizer):
    """For matrices only. lr: the root mean square of a step is 0.2 of it, as AdamW's usually is."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95, rounds: int = 5
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "rounds": rounds}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; `closure` is not called."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for shape, matrices in shapes.items():
                moved = torch.stack([self._moved(matrix, group["momentum"]) for matrix in matrices])
                factor = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, change in zip(matrices, orthogonal(moved, group["rounds"]), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-factor)

    def _moved(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum of the matrix's gradient."""
        assert matrix.grad is not None
        kept = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        kept.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(kept, momentum)


def orthogonal(matrices: Tensor, rounds: int) -> Tensor:
    """Matrices [n, rows, columns] with about the same singular vectors and singular values near one."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
