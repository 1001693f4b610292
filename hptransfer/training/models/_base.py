"""What a model's configuration answers: its sizes by formula, its rules, and the stacked module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from hptransfer.core.registry import Registry


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """Settings of one model. `width` and `depth` are what parameterizations scale by."""

    name: str
    width: int
    depth: int

    @abstractmethod
    def check(self, place: str) -> None:
        """
        Args:
            place: where these settings stand, for the message, such as "run.model".

        Raises:
            ConfigError: a value breaks a rule.
        """

    @abstractmethod
    def num_params(self, *, vocabulary: int, sequence: int) -> int:
        """Trainable parameters, embeddings included."""

    @abstractmethod
    def flops_per_token(self, *, vocabulary: int, sequence: int) -> float:
        """FLOPs of a forward and backward pass over one token (a multiply-add counts as two)."""

    @abstractmethod
    def build(self, *, trials: int, vocabulary: int, sequence: int) -> nn.Module:
        """A module from indices (B, S) to logits (K, B, S, V), its weights not yet drawn."""


MODELS: Registry[type[ModelConfig]] = Registry("model", "hptransfer.training.models")
