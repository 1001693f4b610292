"""Attention, MLP and the residual block of transformers.

Letters: K trials, B examples, S positions, D width, H heads, G key-value heads, C head size, F MLP width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, divisors, multiples, unknown
from hptransfer.parameterizations import Role
from hptransfer.training.layers import Linear, Norm, Residual
from hptransfer.training.models import ModelConfig
from hptransfer.training.operations import Activation, ScaledDotProductAttention

BLOCK_ACTIVATIONS = ("gelu", "relu2", "swiglu")
ATTENTION_SCALES = ("default", "sqrt", "full")


@dataclass(kw_only=True)
class BlocksConfig(ModelConfig):
    """Settings of a stack of pre-norm attention and MLP branches."""

    width: int = 64
    """Size of the residual stream; a multiple of head_dim."""
    depth: int = 2
    """Number of blocks, each of an attention and an MLP branch."""
    head_dim: int = 16
    """Size of a head, fixed while width and the number of heads grow."""
    queries_per_key: int = 1
    """Query heads that share a key-value head (GQA); 0: all of them share one (MQA)."""
    mlp_ratio: int = 4
    """Width of the MLP's hidden layer over the model's."""
    activation: str = "gelu"
    """gelu, relu2 (ReLU squared) or swiglu, with its own gate matrix."""
    qk_norm: bool = False
    """RMS norm of queries and keys, head by head."""
    norm_gains: bool = False
    """Learned gains of the norms; they harm transfer (arXiv:2404.05728)."""
    attention_scale: str = "default"
    """Divisor of the logits q.k: the root of head_dim (sqrt) or head_dim (full). The default is sqrt, but full where
    the parameterization scales every operation (umup)."""
    zero_query: bool = False
    """Start queries at zero, so that attention starts uniform."""

    def check(self, place: str) -> None:
        self.check_positive(place, "width", "depth", "head_dim", "mlp_ratio")
        if self.width % self.head_dim:
            raise ConfigError(
                f"{place}.width must be a multiple of {place}.head_dim ({self.head_dim}), got {self.width}; "
                f"take {multiples(self.width, self.head_dim)}, or another head_dim"
            )
        if self.queries_per_key < 0 or (self.queries_per_key and self.heads % self.queries_per_key):
            raise ConfigError(
                f"{place}.queries_per_key must divide the {self.heads} heads of width {self.width} and head_dim "
                f"{self.head_dim}, or be 0 for one key-value head, got {self.queries_per_key}; "
                f"take {divisors(self.heads, self.queries_per_key)}"
            )
        if self.activation not in BLOCK_ACTIVATIONS:
            raise ConfigError(f"{place}.activation: {unknown('activation', self.activation, BLOCK_ACTIVATIONS)}")
        if self.attention_scale not in ATTENTION_SCALES:
            raise ConfigError(f"{place}.attention_scale: {unknown('scale', self.attention_scale, ATTENTION_SCALES)}")

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.width // self.head_dim

    @property
    def key_heads(self) -> int:
        """Number of key-value heads."""
        return self.heads // self.queries_per_key if self.queries_per_key else 1

    @property
    def mlp_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.mlp_ratio * self.width

    def attention_weights(self) -> int:
        """Return the number of entries of one attention branch's matrices."""
        return 2 * self.width**2 + 2 * self.width * self.key_heads * self.head_dim

    def mlp_weights(self) -> int:
        """Return the number of entries of one MLP branch's matrices."""
        return (3 if self.activation == "swiglu" else 2) * self.width * self.mlp_width

    def block_gains(self) -> int:
        """Return the number of entries of one block's norm gains."""
        return self.norm_gains * (2 * self.width + 2 * self.head_dim * self.qk_norm)

    def attention_flops(self, positions: int) -> float:
        """Return the FLOPs of one block's scores and their sums.

        They cover all positions, forward and backward. Like torch's flop counter, they count the scores in full and
        not only below the diagonal.
        """
        return 12.0 * positions**2 * self.width


class Attention(Residual):
    """Self-attention, pre-norm; optionally with rotary positions."""

    attends = True

    def __init__(self, cfg: BlocksConfig, trials: int, *, positions: int, causal: bool, rotary: bool) -> None:
        super().__init__()
        self.cfg, self.rotary = cfg, rotary
        inner, keys = cfg.width, cfg.key_heads * cfg.head_dim
        self.norm = Norm(trials, cfg.width, gain=cfg.norm_gains)
        # One matrix where queries, keys and values have equal sizes and initial values.
        self.fused = keys == inner and not cfg.zero_query
        if self.fused:
            self.qkv = Linear(trials, cfg.width, 3 * inner, role=Role.HIDDEN)
        else:
            self.q = Linear(trials, cfg.width, inner, role=Role.HIDDEN, start="zeros" if cfg.zero_query else "normal")
            self.kv = Linear(trials, cfg.width, 2 * keys, role=Role.HIDDEN)
        scale = {"default": None, "sqrt": cfg.head_dim**-0.5, "full": cfg.head_dim**-1.0}[cfg.attention_scale]
        self.attend = ScaledDotProductAttention(head_dim=cfg.head_dim, positions=positions, causal=causal, scale=scale)
        self.out = Linear(trials, inner, cfg.width, role=Role.HIDDEN)
        gain = cfg.norm_gains
        self.q_norm = Norm(trials, cfg.head_dim, gain=gain, role=Role.FIXED) if cfg.qk_norm else None
        self.k_norm = Norm(trials, cfg.head_dim, gain=gain, role=Role.FIXED) if cfg.qk_norm else None

    def forward(self, x_KBSD: Tensor) -> Tensor:
        q_KBSHC, k_KBSGC, v_KBSGC = self._queries_keys_values(self.norm(x_KBSD))
        if self.q_norm is not None and self.k_norm is not None:
            q_KBSHC, k_KBSGC = self.q_norm(q_KBSHC), self.k_norm(k_KBSGC)
        if self.rotary:
            q_KBSHC, k_KBSGC = rotate(q_KBSHC), rotate(k_KBSGC)
        return self.out(self.attend(q_KBSHC, k_KBSGC, v_KBSGC))  # type: ignore[no-any-return]

    def _queries_keys_values(self, x_KBSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        C = self.cfg.head_dim
        if self.fused:
            q, k, v = self.qkv(x_KBSD).unflatten(-1, (3, -1, C)).unbind(-3)
        else:
            q = self.q(x_KBSD).unflatten(-1, (-1, C))
            k, v = self.kv(x_KBSD).unflatten(-1, (2, -1, C)).unbind(-3)
        return q, k, v


def rotate(x_KBSHC: Tensor) -> Tensor:
    """Rotate pairs of channels by position times frequency (arXiv:2104.09864)."""
    S, C = x_KBSHC.shape[2], x_KBSHC.shape[-1]
    dtype = torch.promote_types(x_KBSHC.dtype, torch.float32)  # bfloat16 cannot represent odd positions above 256
    frequency = 10_000.0 ** (-torch.arange(0, C // 2, device=x_KBSHC.device, dtype=dtype) / (C // 2))
    angle_SC = torch.arange(S, device=x_KBSHC.device, dtype=dtype)[:, None] * frequency
    cos, sin = angle_SC.cos()[:, None], angle_SC.sin()[:, None]
    first, second = x_KBSHC.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_KBSHC.dtype)


class Mlp(Residual):
    """MLP of two matrices, or three with a gate, pre-norm."""

    def __init__(self, cfg: BlocksConfig, trials: int) -> None:
        super().__init__()
        self.norm = Norm(trials, cfg.width, gain=cfg.norm_gains)
        gate = 2 if cfg.activation == "swiglu" else 1
        self.up = Linear(trials, cfg.width, gate * cfg.mlp_width, role=Role.HIDDEN)
        self.activation = Activation(cfg.activation)
        self.down = Linear(trials, cfg.mlp_width, cfg.width, role=Role.HIDDEN)

    def forward(self, x_KBSD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(self.norm(x_KBSD))))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Block of an attention branch and an MLP branch, or its replacement."""

    def __init__(self, attention: Attention, mlp: Residual) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def forward(self, x_KBSD: Tensor) -> Tensor:
        return self.mlp.add(self.attention.add(x_KBSD))
