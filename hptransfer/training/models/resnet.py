"""Convolutional ResNet: pre-activation, batch norm or no norms.

Every branch has a depth multiplier.

Letters: K trials, B images, C channels; activations are (B, K C, H, W), a group of channels a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, multiples, unknown
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import IMAGES, DataShape
from hptransfer.training.layers import Conv2d, Linear, Residual, Vector, scale_channels
from hptransfer.training.models import MODELS, ModelConfig
from hptransfer.training.operations import Activation

NORMS = ("none", "batch")


@MODELS.register("resnet")
@dataclass(kw_only=True)
class ResNetConfig(ModelConfig):
    """Settings of a ResNet."""

    takes: ClassVar[tuple[str, ...]] = (IMAGES,)

    name: str = "resnet"
    width: int = 16
    """Channels of the first stage; every further stage has twice as many as the previous one."""
    depth: int = 3
    """Number of residual blocks, the same in every stage."""
    stages: int = 1
    """Number of stages; the image's sides are halved between stages."""
    convolutions: int = 1
    """Convolutions per branch: 1 or 2."""
    norm: str = "none"
    """none, or batch: batch norm with gains and biases before every convolution of a branch."""

    def check(self, place: str) -> None:
        self.check_positive(place, "width", "depth", "stages")
        if self.depth % self.stages:
            raise ConfigError(
                f"{place}.depth must be a multiple of {place}.stages ({self.stages}), got {self.depth}; "
                f"take {multiples(self.depth, self.stages)}, or other stages"
            )
        if self.convolutions not in (1, 2):
            raise ConfigError(f"{place}.convolutions must be 1 or 2, got {self.convolutions}")
        if self.norm not in NORMS:
            raise ConfigError(f"{place}.norm: {unknown('norm', self.norm, NORMS)}")

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield input channels, output channels and stride of every block."""
        before = self.width
        for stage in range(self.stages):
            for index in range(self.depth // self.stages):
                channels = self.width * 2**stage
                yield before, channels, 2 if stage and not index else 1
                before = channels

    def num_params(self, shape: DataShape) -> int:
        total = 9 * shape.inputs[0] * self.width
        for before, channels, _ in self.blocks():
            sizes = [before, *[channels] * (self.convolutions - 1)]
            total += sum(9 * size * channels for size in sizes)
            total += before * channels if before != channels else 0
            total += 2 * sum(sizes) if self.norm == "batch" else 0
        last = self.width << (self.stages - 1)
        return total + last * shape.outputs + (2 * last if self.norm == "batch" else 0)

    def flops(self, shape: DataShape) -> float:
        """Count six per convolution weight and output pixel; four in the first.

        The first convolution's input needs no gradient.
        """
        channels_in, height, width = shape.inputs
        total = 4.0 * 9 * channels_in * self.width * height * width
        for before, channels, stride in self.blocks():
            height, width = -(-height // stride), -(-width // stride)
            weights = 9 * before * channels + 9 * channels**2 * (self.convolutions - 1)
            weights += before * channels if before != channels else 0
            total += 6.0 * weights * height * width
        return total + 6.0 * (self.width << (self.stages - 1)) * shape.outputs

    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        return ResNet(self, trials=trials, shape=shape)


class BatchNorm(nn.Module):
    """Batch norm of every trial's channels, with gains and biases.

    It uses running means when not training.
    """

    def __init__(self, trials: int, size: int) -> None:
        super().__init__()
        self.gain = Vector(trials, size, start="ones")
        self.bias = Vector(trials, size, start="zeros")
        self.register_buffer("mean", torch.zeros(trials, size))
        self.register_buffer("variance", torch.ones(trials, size))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        pixels = x[:, 0].numel()
        gain, bias = self.gain.scaled_weight(pixels).flatten(), self.bias.scaled_weight(pixels).flatten()
        # Views, so that the running means are updated in place.
        return F.batch_norm(x, mean.view(-1), variance.view(-1), gain, bias, self.training, 0.1)


class ResNetBranch(Residual):
    """Residual branch of (norm,) ReLU and convolution, once or twice."""

    def __init__(self, cfg: ResNetConfig, trials: int, before: int, channels: int, stride: int) -> None:
        super().__init__()
        sizes = [before, *[channels] * (cfg.convolutions - 1)]
        self.norms = nn.ModuleList(BatchNorm(trials, size) for size in sizes if cfg.norm == "batch")
        self.activation = Activation("relu")
        self.convolutions = nn.ModuleList(
            Conv2d(trials, size, channels, kernel=3, role=Role.HIDDEN, stride=1 if index else stride)
            for index, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        for index, convolution in enumerate(self.convolutions):
            x = convolution(self.activation(self.norms[index](x) if self.norms else x))
        return x


class ResNetBlock(nn.Module):
    """Residual block: skip + branch.

    The skip is a 1x1 convolution where the number of channels changes.
    """

    def __init__(self, cfg: ResNetConfig, trials: int, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = ResNetBranch(cfg, trials, before, channels, stride)
        changes = before != channels
        self.shortcut = (
            Conv2d(trials, before, channels, kernel=1, role=Role.HIDDEN, stride=stride) if changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return scale_channels(self.shortcut(x), self.branch.skip) + self.branch.share(x, scale_channels)


class ResNet(nn.Module):
    """ResNet: images (B, C, H, W) -> logits (K, B, 1, O)."""

    def __init__(self, cfg: ResNetConfig, *, trials: int, shape: DataShape) -> None:
        super().__init__()
        self.first = Conv2d(trials, shape.inputs[0], cfg.width, kernel=3, role=Role.INPUT)
        self.blocks = nn.ModuleList(ResNetBlock(cfg, trials, *sizes) for sizes in cfg.blocks())
        last = cfg.width * 2 ** (cfg.stages - 1)
        self.norm = BatchNorm(trials, last) if cfg.norm == "batch" else nn.Identity()
        self.activation = Activation("relu")
        self.readout = Linear(trials, last, shape.outputs, role=Role.OUTPUT, start=cfg.readout_start)

    def forward(self, images: Tensor) -> Tensor:
        trials = len(self.first.weight)
        x = self.first(images.repeat(1, trials, 1, 1))
        for block in self.blocks:
            x = block(x)
        features_BKC = self.activation(self.norm(x)).mean(dim=(2, 3)).view(len(images), trials, -1)
        return self.readout(features_BKC.transpose(0, 1).unsqueeze(2))  # type: ignore[no-any-return]
