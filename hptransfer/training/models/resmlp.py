"""Residual MLP: one or two matrices per branch, optionally pre-norm.

Source: Bordelon et al. 2023, arXiv:2309.16620.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import FEATURES, IMAGES, DataShape
from hptransfer.training.layers import Linear, Norm, Residual
from hptransfer.training.models import MODELS, ModelConfig
from hptransfer.training.models.mlp import input_size
from hptransfer.training.operations import Activation


@MODELS.register("resmlp")
@dataclass(kw_only=True)
class ResMlpConfig(ModelConfig):
    """Settings of a residual MLP."""

    takes: ClassVar[tuple[str, ...]] = (FEATURES, IMAGES)

    name: str = "resmlp"
    width: int = 64
    """Size of the residual stream."""
    depth: int = 2
    """Number of residual blocks."""
    matrices: int = 1
    """Matrices per branch: 1 or 2."""
    norm: bool = False
    """RMS norm, without a gain, before every branch and the readout."""

    def check(self, place: str) -> None:
        self.check_positive(place, "width", "depth")
        if self.matrices not in (1, 2):
            raise ConfigError(f"{place}.matrices must be 1 or 2, got {self.matrices}")

    def num_params(self, shape: DataShape) -> int:
        return (input_size(shape) + self.depth * self.matrices * self.width + shape.outputs) * self.width

    def flops(self, shape: DataShape) -> float:
        """Count six per matrix weight; four in the first layer.

        The first layer's input needs no gradient.
        """
        return (4.0 * input_size(shape) + 6.0 * (self.depth * self.matrices * self.width + shape.outputs)) * self.width

    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        return ResMlp(self, trials=trials, shape=shape)


class ResMlpBranch(Residual):
    """Residual branch of ReLU and matrix, once or twice."""

    def __init__(self, cfg: ResMlpConfig, trials: int) -> None:
        super().__init__()
        self.norm = Norm(trials, cfg.width, gain=False) if cfg.norm else nn.Identity()
        self.activation = Activation("relu")
        self.matrices = nn.ModuleList(
            Linear(trials, cfg.width, cfg.width, role=Role.HIDDEN) for _ in range(cfg.matrices)
        )

    def forward(self, x_KBD: Tensor) -> Tensor:
        x_KBD = self.norm(x_KBD)
        for matrix in self.matrices:
            x_KBD = matrix(self.activation(x_KBD))
        return x_KBD


class ResMlp(nn.Module):
    """Residual MLP from features (B, ...) to outputs (K, B, 1, O)."""

    def __init__(self, cfg: ResMlpConfig, *, trials: int, shape: DataShape) -> None:
        super().__init__()
        self.first = Linear(trials, input_size(shape), cfg.width, role=Role.INPUT)
        self.blocks = nn.ModuleList(ResMlpBranch(cfg, trials) for _ in range(cfg.depth))
        self.norm = Norm(trials, cfg.width, gain=False) if cfg.norm else nn.Identity()
        self.readout = Linear(trials, cfg.width, shape.outputs, role=Role.OUTPUT, start=cfg.readout_start)

    def forward(self, x: Tensor) -> Tensor:
        x_KBD = self.first(x.flatten(1).expand(len(self.first.weight), len(x), -1))
        for block in self.blocks:
            x_KBD = block.add(x_KBD)  # type: ignore[operator]
        return self.readout(self.norm(x_KBD)).unsqueeze(2)  # type: ignore[no-any-return]
