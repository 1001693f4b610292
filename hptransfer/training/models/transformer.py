"""Decoder-only transformer: pre-norm without gains, heads of fixed size, learned positions.

Letters: K trials, B sequences, S positions, D width, H heads, C head size, F MLP width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import Role
from hptransfer.training.layers import Embedding, Linear, norm
from hptransfer.training.models._base import MODELS, ModelConfig


@MODELS.register("transformer")
@dataclass(kw_only=True)
class TransformerConfig(ModelConfig):
    name: str = "transformer"
    width: int = 64
    """Size of the residual stream; a multiple of head_dim."""
    depth: int = 2
    """Blocks, each of an attention and an MLP branch."""
    head_dim: int = 16
    """Size of a head. Fixed while width grows, so that the number of heads grows."""
    mlp_ratio: int = 4
    """Width of the MLP's hidden layer over the model's."""

    def check(self, place: str) -> None:
        for key in ("width", "depth", "head_dim", "mlp_ratio"):
            value = getattr(self, key)
            if value < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {value}")
        if self.width % self.head_dim:
            below = self.width // self.head_dim * self.head_dim
            near = [w for w in (below, below + self.head_dim) if w]
            raise ConfigError(
                f"{place}.width must be a multiple of {place}.head_dim ({self.head_dim}), got {self.width}; "
                f"take {' or '.join(map(str, near))}, or another head_dim"
            )

    def _block_params(self) -> int:
        return (4 + 2 * self.mlp_ratio) * self.width**2

    def num_params(self, *, vocabulary: int, sequence: int) -> int:
        return self.depth * self._block_params() + (2 * vocabulary + sequence) * self.width

    def flops_per_token(self, *, vocabulary: int, sequence: int) -> float:
        """Six a matrix weight, and 12 S D a block for scores and their sums.

        Attention is counted in full, not only below the diagonal, as torch's flop counter does.
        """
        weights = self.depth * self._block_params() + vocabulary * self.width
        return 6.0 * weights + 12.0 * self.depth * sequence * self.width

    def build(self, *, trials: int, vocabulary: int, sequence: int) -> nn.Module:
        return Transformer(self, trials=trials, vocabulary=vocabulary, sequence=sequence)


class Attention(nn.Module):
    """Causal self-attention; logits are q.k over sqrt(C), a constant while C is fixed."""

    def __init__(self, cfg: TransformerConfig, trials: int) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.qkv = Linear(trials, cfg.width, 3 * cfg.width, role=Role.HIDDEN)
        self.out = Linear(trials, cfg.width, cfg.width, role=Role.HIDDEN)

    def forward(self, x_KBSD: Tensor) -> Tensor:
        K, B, S, D = x_KBSD.shape
        qkv = self.qkv(x_KBSD).view(K * B, S, 3, D // self.head_dim, self.head_dim)
        q_XHSC, k_XHSC, v_XHSC = qkv.permute(2, 0, 3, 1, 4)  # X: trials and sequences as one
        y_XHSC = F.scaled_dot_product_attention(q_XHSC, k_XHSC, v_XHSC, is_causal=True)
        return self.out(y_XHSC.transpose(1, 2).reshape(K, B, S, D))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, cfg: TransformerConfig, trials: int) -> None:
        super().__init__()
        self.up = Linear(trials, cfg.width, cfg.mlp_ratio * cfg.width, role=Role.HIDDEN)
        self.down = Linear(trials, cfg.mlp_ratio * cfg.width, cfg.width, role=Role.HIDDEN)

    def forward(self, x_KBSD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_KBSD)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, cfg: TransformerConfig, trials: int) -> None:
        super().__init__()
        self.attention = Attention(cfg, trials)
        self.mlp = Mlp(cfg, trials)

    def forward(self, x_KBSD: Tensor) -> Tensor:
        x_KBSD = x_KBSD + self.attention(norm(x_KBSD))
        return x_KBSD + self.mlp(norm(x_KBSD))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Indices (B, S) -> logits (K, B, S, V)."""

    def __init__(self, cfg: TransformerConfig, *, trials: int, vocabulary: int, sequence: int) -> None:
        super().__init__()
        self.tokens = Embedding(trials, vocabulary, cfg.width)
        self.positions = Embedding(trials, sequence, cfg.width)
        self.blocks = nn.ModuleList(Block(cfg, trials) for _ in range(cfg.depth))
        self.readout = Linear(trials, cfg.width, vocabulary, role=Role.OUTPUT)

    def forward(self, indices_BS: Tensor) -> Tensor:
        positions_BS = torch.arange(indices_BS.shape[1], device=indices_BS.device).expand_as(indices_BS[:1])
        x_KBSD = self.tokens(indices_BS) + self.positions(positions_BS)
        for block in self.blocks:
            x_KBSD = block(x_KBSD)
        return self.readout(norm(x_KBSD))  # type: ignore[no-any-return]
