"""Shampoo: steps L^-1/4 G R^-1/4 from the gradient's second moments.

L and R are exponential means of G G^T and G^T G (arXiv:1802.09568, 2002.09018). Damping is a share of the largest
eigenvalue (2002.09018), without grafting, so that steps have spectral norm 1 at every width. A matrix may have a side
too long for a dense factor, such as an embedding's vocabulary. It has a factor on its shorter side only, of power -1/2
(2002.09018), which keeps that norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.parameterizations import SPECTRAL, UpdateLaw
from hptransfer.training.layers import Layer
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.optimizers._matrix import DecoupledPreconditioner, MatrixConfig


@OPTIMIZERS.register("shampoo")
@dataclass(kw_only=True)
class ShampooConfig(MatrixConfig):
    """Settings of Shampoo."""

    name: str = "shampoo"
    lr: float = 2.0**-4
    """Peak learning rate at the base, the spectral norm of a matrix's first step; above 0. It is also AdamW's rate for
    the rest, unless `constants` differ."""

    @property
    def matrix_law(self) -> UpdateLaw:
        return SPECTRAL

    def preconditioned(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Shampoo(groups)


class Shampoo(DecoupledPreconditioner):
    """Shampoo, whose factors come from the gradients alone."""

    def factors(self, view: Tensor, layer: Layer, group: dict[str, Any]) -> list[Tensor | None]:
        gradient = view.grad
        assert gradient is not None, "assign_gradients first"
        (rows, columns), longest = view.shape, group["largest_side"]
        left = gradient @ gradient.mT if rows <= max(columns, longest) else None
        right = gradient.mT @ gradient if left is None or columns <= max(rows, longest) else None
        return [left, right]

    def power(self, num_factors: int) -> float:
        return -0.5 / num_factors
