"""Dataset of windows cut from a training and a validation token stream."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hptransfer.core.errors import DataError
from hptransfer.training.datasets import Dataset

Tokens = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]


class Stream(Dataset):
    """Windows of S + 1 tokens.

    They start at random places for training, and at evenly spaced ones for validation.

    Args:
        train, held_out: tokens, shape (N,); may be memory-mapped.
        source: file or folder of the streams, for messages.
        unit: name of a token in messages.
        remedy: way to get longer streams, for messages.
    """

    def __init__(
        self, train: Tokens, held_out: Tokens, *, fingerprint: str, source: str, unit: str, remedy: str
    ) -> None:
        self._train = train
        self._held_out = held_out
        self.fingerprint = fingerprint
        self._source = source
        self._unit = unit
        self._remedy = remedy

    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        self._require(self._train, "training", sequence + 1, "a smaller run.sequence")
        starts = np.random.default_rng((seed, step)).integers(0, len(self._train) - sequence, size=batch)
        return _windows(self._train, starts, sequence)

    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        self._require(self._held_out, "validation", windows * sequence + 1, "fewer run.validation_windows")
        starts = np.linspace(0, len(self._held_out) - sequence - 1, windows).astype(np.int64)
        return _windows(self._held_out, starts, sequence)

    def _require(self, stream: Tokens, kind: str, length: int, less: str) -> None:
        if len(stream) < length:
            raise DataError(
                f"run.data: {self._source} has {len(stream)} {self._unit} of {kind} text, {length} are needed; "
                f"{self._remedy}, or ask for {less}"
            )


def _windows(stream: Tokens, starts: NDArray[np.int64], size: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, S), the targets shifted by one token."""
    tokens = torch.from_numpy(stream[starts[:, None] + np.arange(size + 1)].astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
