"""What a dataset answers: batches that depend on (seed, step) alone, and fixed held-out windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from hptransfer.core.registry import Registry


class Dataset(ABC):
    """Token sequences, on the CPU.

    Attributes:
        vocabulary: number of different tokens.
        fingerprint: hash of what is trained and validated on.
    """

    vocabulary: int
    fingerprint: str

    @abstractmethod
    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (B, S) int64; the same for the same arguments, always."""

    @abstractmethod
    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (windows, S) int64, fixed for all trials.

        Raises:
            DataError: there is too little held-out data.
        """


@dataclass(kw_only=True)
class DataConfig(ABC):
    """Settings of one dataset."""

    name: str

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of different tokens, known without loading anything."""

    @abstractmethod
    def load(self) -> Dataset:
        """
        Raises:
            DataError: files are missing or unusable.
        """


DATASETS: Registry[type[DataConfig]] = Registry("dataset", "hptransfer.training.datasets")
