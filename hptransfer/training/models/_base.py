"""Base class of models' configurations, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.core.registry import Registry
from hptransfer.training.datasets import DataShape

PRECISIONS = FLOAT32, BF16 = ("float32", "bf16")


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """Settings of one model; parameterizations scale by `width` and `depth`."""

    takes: ClassVar[tuple[str, ...]]
    """Kinds of data that the model accepts."""
    residual: ClassVar[bool] = True
    """True if the model has residual branches, for a depth rule."""
    unit: ClassVar[bool] = True
    """True if u-muP's numbers are known for all its operations."""
    compiles: ClassVar[tuple[str, ...]] = PRECISIONS
    """Precisions in which torch.compile compiles the model as one graph."""
    recordable: ClassVar[bool] = True
    """True if its forward and backward pass never wait for the CPU, so that a CUDA graph can hold them."""

    name: str
    width: int
    depth: int
    zero_readout: bool = False
    """Start the readout at zero, so that all outputs start equally likely (advised by arXiv:2203.03466)."""

    @property
    def readout_start(self) -> str:
        """Initial value of the readout's weights, as in `Layer.start`."""
        return "zeros" if self.zero_readout else "normal"

    @abstractmethod
    def check(self, place: str) -> None:
        """Check the settings.

        Args:
            place: prefix of the settings' keys in messages, such as "run.model".

        Raises:
            ConfigError: a value breaks a rule.
        """

    def check_shape(self, place: str, shape: DataShape) -> None:  # noqa: B027 (most accept any)
        """Raise ConfigError if the model cannot use data of this shape.

        The data's kind is one that the model accepts.
        """

    def check_positive(self, place: str, *keys: str) -> None:
        """Raise ConfigError for the first of these settings below 1."""
        for key in keys:
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")

    @abstractmethod
    def num_params(self, shape: DataShape) -> int:
        """Return the number of trainable parameters, embeddings included."""

    @abstractmethod
    def flops(self, shape: DataShape) -> float:
        """Return the FLOPs of a forward and backward pass over one example.

        All its positions are counted. A multiply-add counts as two.
        """

    @abstractmethod
    def build(self, *, trials: int, shape: DataShape) -> nn.Module:
        """Build the module, its weights not yet drawn.

        It maps inputs (B, ...) to outputs (K, B, S, outputs).
        """

    def base_settings(self, width: int) -> dict[str, Any]:
        """Return the settings in which the base model differs from this one."""
        return {"width": width}

    def report(self, model: nn.Module) -> dict[str, Tensor]:
        """Return further numbers for a training curve: by name, one per trial.

        They are of the time since the last call. The loss is not among them.
        """
        return {}

    def probe(self, model: nn.Module) -> dict[str, nn.Module]:
        """Prepare a model for coordinate checks, which compare outputs between steps.

        Returns:
            Modules, by name, that are not layers and whose outputs are checked too.
        """
        return {}


MODELS: Registry[type[ModelConfig]] = Registry("model", "hptransfer.training.models")
