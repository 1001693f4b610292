"""ViT: patches of an image as tokens of a transformer without a causal mask, read out from a class token.

Letters: K trials, B images, P patches, I numbers a patch, S = P + 1 positions, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, divisors
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import IMAGES, Shape
from hptransfer.training.layers import Embedding, Linear, Norm
from hptransfer.training.models import MODELS
from hptransfer.training.models._blocks import Attention, Block, BlocksConfig, Mlp
from hptransfer.training.operations import Sum


@MODELS.register("vit")
@dataclass(kw_only=True)
class VitConfig(BlocksConfig):
    takes: ClassVar[tuple[str, ...]] = (IMAGES,)

    name: str = "vit"
    patch: int = 2
    """Side of a patch in pixels; divides the image's sides."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_positive(place, "patch")

    def check_shape(self, place: str, shape: Shape) -> None:
        _, height, width = shape.inputs
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"{place}.patch must divide the image's {height} x {width} pixels, got {self.patch}; "
                f"take {divisors(math.gcd(height, width), self.patch)}"
            )

    def patches(self, shape: Shape) -> tuple[int, int]:
        """How many there are, and numbers in each."""
        channels, height, width = shape.inputs
        return (height // self.patch) * (width // self.patch), channels * self.patch**2

    def num_params(self, shape: Shape) -> int:
        count, numbers = self.patches(shape)
        block = self.attention_weights() + self.mlp_weights() + self.block_gains()
        outside = numbers + count + 1 + 1 + shape.outputs + self.norm_gains
        return self.depth * block + outside * self.width

    def flops(self, shape: Shape) -> float:
        """Six a matrix weight and position; four in the patch embedding, whose input needs no gradient."""
        count, numbers = self.patches(shape)
        block = 6.0 * (self.attention_weights() + self.mlp_weights()) * (count + 1) + self.attention_flops(count + 1)
        return self.depth * block + (4.0 * numbers * count + 6.0 * shape.outputs) * self.width

    def build(self, *, trials: int, shape: Shape) -> nn.Module:
        return VisionTransformer(self, trials=trials, shape=shape)


class VisionTransformer(nn.Module):
    """Images (B, C, H, W) -> logits (K, B, 1, O)."""

    def __init__(self, cfg: VitConfig, *, trials: int, shape: Shape) -> None:
        super().__init__()
        self.patch = cfg.patch
        count, numbers = cfg.patches(shape)
        self.patches = Linear(trials, numbers, cfg.width, role=Role.INPUT)
        self.token = Embedding(trials, 1, cfg.width)
        self.positions = Embedding(trials, count + 1, cfg.width)
        self.sum = Sum()
        self.blocks = nn.ModuleList(
            Block(Attention(cfg, trials, positions=count + 1, causal=False, rotary=False), Mlp(cfg, trials))
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
