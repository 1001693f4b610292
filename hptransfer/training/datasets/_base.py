"""What a dataset answers: its shape, batches that depend on (seed, step) alone, and fixed held-out examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.core.registry import Registry

TOKENS, IMAGES, FEATURES = "tokens", "images", "features"
CROSS_ENTROPY, SQUARED = "cross-entropy", "squared error"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a model is given and what it is to answer, known without loading anything.

    Attributes:
        kind: "tokens", indices (B, S); "images", (B, C, H, W); "features", (B, I).
        inputs: (S,), (C, H, W) or (I,).
        vocabulary: number of different tokens; 0 unless the kind is tokens.
        outputs: classes (the next token's, for tokens), or values to regress on.
        loss: "cross-entropy" in nats, or "squared error", half the sum over the outputs.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    loss: str = CROSS_ENTROPY

    @property
    def sequence(self) -> int:
        """Positions of an example that are predicted, each counted as a token of the budget."""
        return self.inputs[0] if self.kind == TOKENS else 1


class Dataset(ABC):
    """Examples, on the CPU.

    Attributes:
        fingerprint: hash of what is trained and validated on.
    """

    fingerprint: str

    @abstractmethod
    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step; the same for the same arguments, always.

        Tokens: inputs and targets (B, S) int64. Otherwise inputs (B, ...) float32, and targets (B, 1)
        int64, or (B, outputs) float32 under squared error.
        """

    @abstractmethod
    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        """As `batch`, `windows` examples that are fixed for all trials.

        Raises:
            DataError: there is too little held-out data.
        """


@dataclass(kw_only=True)
class DataConfig(ABC):
    """Settings of one dataset."""

    name: str

    @abstractmethod
    def shape(self, sequence: int) -> Shape:
        """
        Args:
            sequence: tokens of an example; 1 for what has no positions.

        Raises:
            ConfigError: a setting breaks a rule.
        """

    @abstractmethod
    def load(self) -> Dataset:
        """
        Raises:
            DataError: files are missing or unusable.
        """

    def without_positions(self, sequence: int) -> None:
        """Raises ConfigError unless examples are asked for as they are."""
        if sequence != 1:
            raise ConfigError(
                f"run.sequence must be 1 with run/data={self.name}, whose examples have no positions, got {sequence}; "
                "run.tokens then counts examples"
            )


def shuffled(*, size: int, seed: int, step: int, batch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of a step's examples: epochs of all examples, each in an order of its own."""
    first = step * batch
    parts = []
    for epoch in range(first // size, (first + batch - 1) // size + 1):
        order = np.random.default_rng((seed, epoch)).permutation(size)
        parts.append(order[max(0, first - epoch * size) : first + batch - epoch * size])
    return np.concatenate(parts)


DATASETS: Registry[type[DataConfig]] = Registry("dataset", "hptransfer.training.datasets")
