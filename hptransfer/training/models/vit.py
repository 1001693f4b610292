"""ViT: transformer over image patches, read out from a class token.

Attention has no causal mask.

Letters: K trials, B images, P patches, I numbers per patch, S = P + 1 positions, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, divisors
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import IMAGES, DataShape
from hptransfer.training.layers import Embedding, Linear, Norm
from hptransfer.training.models import MODELS
from hptransfer.training.models._blocks import Attention, BlocksConfig, Mlp, TransformerBlock
from hptransfer.training.operations import Sum


@MODELS.register("vit")
@dataclass(kw_only=True)
class VitConfig(BlocksConfig):
    """Settings of a ViT."""

    takes: ClassVar[tuple[str, ...]] = (IMAGES,)

    name: str = "vit"
    patch: int = 2
    """Side of a patch in pixels, a divisor of the image's sides."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_positive(place, "patch")

    def check_shape(self, place: str, shape: DataShape) -> None:
        _, height, width = shape.inputs
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"{place}.patch must divide the image's {height} x {width} pixels, got {self.patch}; "
                f"take {divisors(math.gcd(height, width), self.patch)}"
            )

    def patches(self, shape: DataShape) -> tuple[int, int]:
        """Return the number of patches and the numbers in each."""
        channels, height, width = shape.inputs
        return (height // self.patch) * (width // self.patch), channels * self.patch**2

    def num_params(self, shape: DataShape) -> int:
        count, numbers = self.patches(shape)
        block = self.attention_weights() + self.mlp_weights() + self.block_gains()
        outside = numbers + count + 1 + 1 + shape.outputs + self.norm_gains
        return self.depth * block + outside * self.width

    def flops(self, shape: DataShape) -> float:
        """Count six per matrix weight and position; four in the patch embedding.

        The patch embedding's input needs no gradient.
        """
        count, numbers = self.patches(shape)
        block = 6.0 * (self.attention_weights() + self.mlp_weights()) * (count + 1) + self.attention_flops(count + 1)
        return self.depth * block + (4.0 * numbers * count + 6.0 * shape.outputs) * self.width

    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        return VisionTransformer(self, trials=trials, shape=shape)


class VisionTransformer(nn.Module):
    """ViT: images (B, C, H, W) -> logits (K, B, 1, O)."""

    def __init__(self, cfg: VitConfig, *, trials: int, shape: DataShape) -> None:
        super().__init__()
        self.patch = cfg.patch
        count, numbers = cfg.patches(shape)
        self.patches = Linear(trials, numbers, cfg.width, role=Role.INPUT)
        self.token = Embedding(trials, 1, cfg.width)
        self.positions = Embedding(trials, count + 1, cfg.width)
        self.sum = Sum()
        self.blocks = nn.ModuleList(
            TransformerBlock(Attention(cfg, trials, positions=count + 1, causal=False, rotary=False), Mlp(cfg, trials))
            for _ in range(cfg.depth)
        )
        self.norm = Norm(trials, cfg.width, gain=cfg.norm_gains)
        self.readout = Linear(trials, cfg.width, shape.outputs, role=Role.OUTPUT, start=cfg.readout_start)

    def forward(self, images: Tensor) -> Tensor:
        trials, side = len(self.patches.weight), self.patch
        patches_BIP = nn.functional.unfold(images, side, stride=side)
        x_KBPD = self.patches(patches_BIP.transpose(1, 2).expand(trials, -1, -1, -1))
        first_KB1D = self.token(torch.zeros(len(images), 1, dtype=torch.long, device=images.device))
        x_KBSD = torch.cat([first_KB1D, x_KBPD], dim=2)
        x_KBSD = self.sum(x_KBSD, self.positions(torch.arange(x_KBSD.shape[2], device=images.device)[None]))
        for block in self.blocks:
            x_KBSD = block(x_KBSD)
        return self.readout(self.norm(x_KBSD[:, :, :1]))  # type: ignore[no-any-return]
