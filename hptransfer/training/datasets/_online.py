"""Datasets whose examples are drawn on demand, so that none is repeated."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.training.datasets import Dataset

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Values, Values | NDArray[np.int64]]]
"""Function that draws inputs (B, I), and labels or values (B, 1), of B examples."""


class Task(Dataset):
    """Dataset of a fixed function of random inputs.

    Args:
        draw: function that draws examples without noise.
        settings: text of all settings that `draw` depends on.
        noise: standard deviation of noise on the training targets. Validation targets have none, so that the
            validation loss is the excess over noise^2 / 2.
    """

    def __init__(self, draw: Draw, *, settings: str, noise: float = 0.0) -> None:
        self._draw = draw
        self._noise = noise
        # A hash of the settings, not of drawn numbers, whose last digits depend on the machine.
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((seed, step))
        inputs, targets = self._draw(random, batch)
        if self._noise:
            targets = targets + self._noise * random.standard_normal(targets.shape)
        return _as_tensors(inputs, targets)

    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        return _as_tensors(*self._draw(random_stream(0, purpose=1), windows))


def random_stream(seed: int, *, purpose: int) -> np.random.Generator:
    """Return a random generator independent of those of every (seed, step).

    Those have no spawn key.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))


def require_at_least(least: int, **settings: float) -> None:
    """Raise ConfigError for a run.data setting below `least` or not finite."""
    for key, value in settings.items():
        if not least <= value < math.inf:
            raise ConfigError(f"run.data.{key} must be at least {least} and finite, got {value}")


def _as_tensors(inputs: Values, targets: Values | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    answers = torch.from_numpy(targets)
    return torch.from_numpy(inputs).float(), answers.float() if answers.is_floating_point() else answers
