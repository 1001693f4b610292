"""What a model's configuration answers: its sizes by formula, its rules, and the stacked module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.core.registry import Registry
from hptransfer.training.datasets import Shape

PRECISIONS = FLOAT32, BF16 = ("float32", "bf16")


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """Settings of one model. `width` and `depth` are what parameterizations scale by."""

    takes: ClassVar[tuple[str, ...]]
    """Kinds of data that it can be given."""
    residual: ClassVar[bool] = True
    """Whether it has residual branches, for a depth rule."""
    unit: ClassVar[bool] = True
    """Whether u-muP's numbers are known for all its operations."""
    compiles: ClassVar[tuple[str, ...]] = PRECISIONS
    """Precisions in which torch.compile makes one piece of it."""
    recordable: ClassVar[bool] = True
    """Whether a GPU runs its forward and backward pass without asking the CPU, so that a CUDA graph can hold them."""

    name: str
    width: int
    depth: int
    zero_readout: bool = False
    """The readout starts at zero, so that all answers start equally likely (advised by arXiv:2203.03466)."""

    @property
    def readout_start(self) -> str:
        """How the readout's weights start, in the words of `Layer`."""
        return "zeros" if self.zero_readout else "normal"

    @abstractmethod
    def check(self, place: str) -> None:
        """
        Args:
            place: where these settings stand, for the message, such as "run.model".

        Raises:
            ConfigError: a value breaks a rule.
        """

    def check_shape(self, place: str, shape: Shape) -> None:  # noqa: B027 (most take any)
        """Raises ConfigError if it cannot be given this data, of a kind that it takes."""

    def check_positive(self, place: str, *keys: str) -> None:
        """Raises ConfigError for the first of these settings below 1."""
        for key in keys:
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")

    @abstractmethod
    def num_params(self, shape: Shape) -> int:
        """Trainable parameters, embeddings included."""

    @abstractmethod
    def flops(self, shape: Shape) -> float:
        """FLOPs of a forward and backward pass over one example, all its positions (a multiply-add counts as two)."""

    @abstractmethod
    def build(self, *, trials: int, shape: Shape) -> nn.Module:
        """A module from inputs (B, ...) to outputs (K, B, S, outputs), its weights not yet drawn."""

    def base_settings(self, width: int) -> dict[str, Any]:
        """Settings in which the base model differs from this one."""
        return {"width": width}

    def report(self, model: nn.Module) -> dict[str, Tensor]:
        """Numbers of a model in training for its curve, beside the loss: by name one a trial, since the last call."""
        return {}

    def probe(self, model: nn.Module) -> dict[str, nn.Module]:
        """Prepares a model for coordinate checks, in which what a layer puts out is compared between steps.

        Returns:
            By name modules other than layers, whose outputs are to be looked at too.
        """
        return {}


MODELS: Registry[type[ModelConfig]] = Registry("model", "hptransfer.training.models")
