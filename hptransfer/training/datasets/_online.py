"""Examples that are drawn when they are asked for, so that none is ever seen twice."""

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
"""Inputs (B, I), and labels or values (B, 1), of B examples."""


class Task(Dataset):
    """A fixed function of random inputs.

    Args:
        draw: examples without noise.
        settings: all that `draw` depends on, written out.
        noise: standard deviation of what is added to the targets in training. The targets of
            validation have none, so that its loss is the excess over noise^2 / 2.
    """

    def __init__(self, draw: Draw, *, settings: str, noise: float = 0.0) -> None:
        self._draw = draw
        self._noise = noise
        # Of the settings and not of drawn numbers, whose last digits depend on the machine.
        self.fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((seed, step))
        inputs, targets = self._draw(random, batch)
        if self._noise:
            targets = targets + self._noise * random.standard_normal(targets.shape)
        return _tensors(inputs, targets)

    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        return _tensors(*self._draw(stream(0, purpose=1), windows))


def stream(seed: int, *, purpose: int) -> np.random.Generator:
    """Random numbers apart from those of every (seed, step), which have no spawn key."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose,)))


def at_least(least: int, **settings: float) -> None:
    """Raises ConfigError for a setting of run.data that is below `least`, or not finite."""
    for key, value in settings.items():
        if not least <= value < math.inf:
            raise ConfigError(f"run.data.{key} must be at least {least} and finite, got {value}")


def _tensors(inputs: Values, targets: Values | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    answers = torch.from_numpy(targets)
    return torch.from_numpy(inputs).float(), answers.float() if answers.is_floating_point() else answers
