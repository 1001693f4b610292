"""Base classes of datasets and their configurations, and their registry."""

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
class DataShape:
    """Shape of a dataset's inputs and outputs, known without loading it.

    Attributes:
        kind: "tokens", indices (B, S); "images", (B, C, H, W); "features", (B, I).
        inputs: (S,), (C, H, W) or (I,).
        vocabulary: number of different tokens; 0 unless the kind is tokens.
        outputs: number of classes (of the next token, for tokens), or of values to regress on.
        loss: "cross-entropy" in nats, or "squared error", half the sum over outputs.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    loss: str = CROSS_ENTROPY

    @property
    def sequence(self) -> int:
        """Predicted positions of an example, each a token of the budget."""
        return self.inputs[0] if self.kind == TOKENS else 1


class Dataset(ABC):
    """Dataset of examples, on the CPU.

    Batches depend on (seed, step) alone; held-out examples are fixed.

    Attributes:
        fingerprint: hash of the training and validation data.
    """

    fingerprint: str

    @abstractmethod
    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of a step.

        The same arguments always give the same batch.

        Tokens: inputs and targets (B, S) int64. Otherwise inputs (B, ...) float32, and targets (B, 1)
        int64, or (B, outputs) float32 under squared error.
        """

    @abstractmethod
    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Return `windows` examples as in `batch`, the same for all trials.

        Raises:
            DataError: there is not enough held-out data.
        """


@dataclass(kw_only=True)
class DataConfig(ABC):
    """Settings of one dataset."""

    name: str

    @abstractmethod
    def shape(self, sequence: int) -> DataShape:
        """Return the shape of inputs and outputs.

        Args:
            sequence: tokens per example; 1 for data without positions.

        Raises:
            ConfigError: a setting breaks a rule.
        """

    @abstractmethod
    def load(self) -> Dataset:
        """Load the dataset.

        Raises:
            DataError: files are missing or unusable.
        """

    def require_no_positions(self, sequence: int) -> None:
        """Raise ConfigError unless `sequence` is 1, for data without positions."""
        if sequence != 1:
            raise ConfigError(
                f"run.sequence must be 1 with run/data={self.name}, whose examples have no positions, got {sequence}; "
                "run.tokens then counts examples"
            )


def shuffled(*, size: int, seed: int, step: int, batch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the indices of a step's examples.

    Every epoch has all examples, in its own order.
    """
    first = step * batch
    parts = []
    for epoch in range(first // size, (first + batch - 1) // size + 1):
        order = np.random.default_rng((seed, epoch)).permutation(size)
        parts.append(order[max(0, first - epoch * size) : first + batch - epoch * size])
    return np.concatenate(parts)


DATASETS: Registry[type[DataConfig]] = Registry("dataset", "hptransfer.training.datasets")
