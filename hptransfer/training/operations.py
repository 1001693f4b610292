"""Operations without weights that carry numbers of the parameterization.

All numbers are 1 unless the parameterization sets them.

Letters: K trials, B examples, S positions, H heads, C head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.training.layers import Scalar, scale_fwd

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "swiglu": F.silu,
    "tanh": F.tanh,
}


class Activation(nn.Module):
    """Activation multiplier * f(sharpness * x) / sharpness.

    For swiglu x holds values and gates side by side.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.multiplier: Scalar = 1.0
        self.sharpness: Scalar = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "swiglu":
            values, gates = x.chunk(2, dim=-1)
            return scale_fwd(values * self.sharpened(gates), self.multiplier)
        return scale_fwd(self.sharpened(x), self.multiplier)

    def sharpened(self, x: Tensor) -> Tensor:
        """Return f(sharpness * x) / sharpness."""
        return scale_fwd(ACTIVATIONS[self.name](scale_fwd(x, self.sharpness)), 1 / self.sharpness)


class Sum(nn.Module):
    """Sum multiplier * (x + y)."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplier: Scalar = 1.0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return scale_fwd(x + y, self.multiplier)


class ScaledDotProductAttention(nn.Module):
    """Attention multiplier * softmax(scale * q.k) v, head by head.

    Args:
        positions: number of positions.
        causal: attend to positions up to the query's own; to all otherwise.
        scale: factor on the logits; None leaves it to the parameterization, and is head_dim^-1/2 unless one sets it.
    """

    def __init__(self, *, head_dim: int, positions: int, causal: bool, scale: float | None) -> None:
        super().__init__()
        self.head_dim, self.positions, self.causal = head_dim, positions, causal
        self.chosen = scale
        self.scale: Scalar = head_dim**-0.5 if scale is None else scale
        self.multiplier: Scalar = 1.0

    def forward(self, q_KBSHC: Tensor, k_KBSGC: Tensor, v_KBSGC: Tensor) -> Tensor:
        scale = self.scale
        if isinstance(scale, Tensor):  # torch's operation has one scale for all trials
            q_KBSHC, scale = scale_fwd(q_KBSHC, scale), 1.0
        q, k, v = (y.flatten(0, 1).transpose(1, 2) for y in (q_KBSHC, k_KBSGC, v_KBSGC))  # trials and examples as one
        if k.shape[1] != q.shape[1]:
            k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], dim=1) for y in (k, v))
        y_XHSC = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=scale)
        y_KBSD: Tensor = y_XHSC.transpose(1, 2).reshape(*q_KBSHC.shape[:3], -1)
        return scale_fwd(y_KBSD, self.multiplier)
