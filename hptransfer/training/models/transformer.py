"""Decoder-only transformer, pre-norm; GQA, SwiGLU, QK-norm, rotary, tied embeddings optional.

Heads have a fixed size.

Letters: K trials, B sequences, S positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import TOKENS, DataShape
from hptransfer.training.layers import Embedding, Linear, Norm, Residual, TiedReadout
from hptransfer.training.models import MODELS
from hptransfer.training.models._blocks import Attention, BlocksConfig, Mlp, TransformerBlock
from hptransfer.training.operations import Sum

POSITIONS = ("learned", "rotary")


@MODELS.register("transformer")
@dataclass(kw_only=True)
class TransformerConfig(BlocksConfig):
    """Settings of a decoder-only transformer."""

    takes: ClassVar[tuple[str, ...]] = (TOKENS,)

    name: str = "transformer"
    positions: str = "learned"
    """learned (an embedding of every position) or rotary."""
    tied: bool = False
    """Use the embedding's weights as the readout."""

    def check(self, place: str) -> None:
        super().check(place)
        if self.positions not in POSITIONS:
            raise ConfigError(f"{place}.positions: {unknown('kind of positions', self.positions, POSITIONS)}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ConfigError(f"{place}.head_dim must be even for rotary positions, got {self.head_dim}; add 1")
        if self.tied and self.zero_readout:
            raise ConfigError(
                f"{place}.zero_readout would also zero the embedding that it is tied to; "
                f"set {place}.tied=false or leave {place}.zero_readout out"
            )

    def num_params(self, shape: DataShape) -> int:
        embedded = shape.vocabulary * (1 if self.tied else 2) + shape.sequence * (self.positions == "learned")
        block = self.attention_weights() + self.mlp_params() + self.block_gains()
        return self.depth * block + embedded * self.width + self.norm_gains * self.width

    def mlp_params(self) -> int:
        """Return the number of entries of a block's second branch."""
        return self.mlp_weights()

    def flops(self, shape: DataShape) -> float:
        """Count six per matrix weight and position, and the scores."""
        weights = self.depth * (self.attention_weights() + self.mlp_weights()) + shape.vocabulary * self.width
        return 6.0 * weights * shape.sequence + self.depth * self.attention_flops(shape.sequence)

    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        return Transformer(self, trials=trials, shape=shape)

    def branch(self, trials: int) -> Residual:
        """Build a block's second branch."""
        return Mlp(self, trials)


class Transformer(nn.Module):
    """Transformer from indices (B, S) to logits (K, B, S, V)."""

    def __init__(self, cfg: TransformerConfig, *, trials: int, shape: DataShape) -> None:
        super().__init__()
        self.tokens = Embedding(trials, shape.vocabulary, cfg.width)
        self.positions = Embedding(trials, shape.sequence, cfg.width) if cfg.positions == "learned" else None
        self.sum = Sum()
        rotary, positions = cfg.positions == "rotary", shape.sequence
        self.blocks = nn.ModuleList(
            TransformerBlock(
                Attention(cfg, trials, positions=positions, causal=True, rotary=rotary), cfg.branch(trials)
            )
            for _ in range(cfg.depth)
        )
        self.norm = Norm(trials, cfg.width, gain=cfg.norm_gains)
        self.readout = (
            TiedReadout(self.tokens)
            if cfg.tied
            else Linear(trials, cfg.width, shape.vocabulary, role=Role.OUTPUT, start=cfg.readout_start)
        )

    def forward(self, indices_BS: Tensor) -> Tensor:
        x_KBSD = self.tokens(indices_BS)
        if self.positions is not None:
            positions_BS = torch.arange(indices_BS.shape[1], device=indices_BS.device).expand_as(indices_BS[:1])
            x_KBSD = self.sum(x_KBSD, self.positions(positions_BS))
        for block in self.blocks:
            x_KBSD = block(x_KBSD)
        return self.readout(self.norm(x_KBSD))  # type: ignore[no-any-return]
