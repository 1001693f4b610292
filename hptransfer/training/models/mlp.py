"""MLP: input layer, hidden layers, readout; optional biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import Role
from hptransfer.training.datasets import FEATURES, IMAGES, DataShape
from hptransfer.training.layers import Linear, Vector
from hptransfer.training.models import MODELS, ModelConfig
from hptransfer.training.operations import Activation

MLP_ACTIVATIONS = ("relu", "tanh", "gelu")


@MODELS.register("mlp")
@dataclass(kw_only=True)
class MlpConfig(ModelConfig):
    """Settings of an MLP."""

    takes: ClassVar[tuple[str, ...]] = (FEATURES, IMAGES)
    residual: ClassVar[bool] = False

    name: str = "mlp"
    width: int = 64
    """Size of the hidden layers."""
    depth: int = 2
    """Number of hidden layers, the input layer included."""
    activation: str = "relu"
    """relu, tanh or gelu."""
    biases: bool = False

    def check(self, place: str) -> None:
        self.check_positive(place, "width", "depth")
        if self.activation not in MLP_ACTIVATIONS:
            raise ConfigError(f"{place}.activation: {unknown('activation', self.activation, MLP_ACTIVATIONS)}")

    def num_params(self, shape: DataShape) -> int:
        biases = self.biases * (self.depth * self.width + shape.outputs)
        return (input_size(shape) + (self.depth - 1) * self.width + shape.outputs) * self.width + biases

    def flops(self, shape: DataShape) -> float:
        """Count six per matrix weight; four in the first layer.

        The first layer's input needs no gradient.
        """
        return (4.0 * input_size(shape) + 6.0 * ((self.depth - 1) * self.width + shape.outputs)) * self.width

    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        return MultiLayerPerceptron(self, trials=trials, shape=shape)


def input_size(shape: DataShape) -> int:
    """Return the size of one example's input."""
    size = 1
    for side in shape.inputs:
        size *= side
    return size


class MultiLayerPerceptron(nn.Module):
    """MLP from features (B, ...) to outputs (K, B, 1, O)."""

    def __init__(self, cfg: MlpConfig, *, trials: int, shape: DataShape) -> None:
        super().__init__()
        self.activation = Activation(cfg.activation)
        sizes = [input_size(shape), *[cfg.width] * cfg.depth, shape.outputs]
        roles = [Role.INPUT, *[Role.HIDDEN] * (cfg.depth - 1), Role.OUTPUT]
        self.layers = nn.ModuleList(
            Linear(trials, fan_in, fan_out, role=role, start=cfg.readout_start if role is Role.OUTPUT else "normal")
            for fan_in, fan_out, role in zip(sizes[:-1], sizes[1:], roles, strict=True)
        )
        grows = [*[Role.VECTOR] * cfg.depth, Role.FIXED]
        self.biases = nn.ModuleList(
            Vector(trials, size, role=role, start="zeros")
            for size, role in zip(sizes[1:], grows, strict=True)
            if cfg.biases
        )

    def forward(self, x: Tensor) -> Tensor:
        x_KBI = x.flatten(1).expand(len(next(self.parameters())), len(x), -1)
        for index, layer in enumerate(self.layers):
            x_KBI = layer(self.activation(x_KBI) if index else x_KBI)
            if self.biases:
                x_KBI = self.biases[index](x_KBI)
        return x_KBI.unsqueeze(2)
