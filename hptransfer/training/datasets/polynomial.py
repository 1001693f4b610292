"""Regression on a random polynomial along one input direction.

Polynomial and direction are fixed; no point is repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite_e

from hptransfer.core.errors import ConfigError
from hptransfer.training.datasets import DATASETS, FEATURES, SQUARED, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._online import Task, Values, random_stream, require_at_least


@DATASETS.register("polynomial")
@dataclass(kw_only=True)
class PolynomialConfig(DataConfig):
    """Settings of the polynomial y = sum_k c_k He_k(w.x) / sqrt(k!).

    k runs from 1 to the degree; |w| = |c| = 1. The probabilists' Hermite polynomials He_k / sqrt(k!) are orthonormal
    under N(0, 1), so that y has mean 0 and variance 1 at every degree.
    """

    name: str = "polynomial"
    inputs: int = 16
    """Dimensions of the points, N(0, 1) each; at least 1."""
    degree: int = 3
    """Degree of the polynomial, from 1 to 20."""
    noise: float = 0.1
    """Standard deviation of the training targets' noise, over the polynomial's of 1; at least 0."""
    task_seed: int = 0
    """Seed of the polynomial and the direction; at least 0."""

    def shape(self, sequence: int) -> DataShape:
        self.require_no_positions(sequence)
        require_at_least(0, task_seed=self.task_seed, noise=self.noise)
        require_at_least(1, inputs=self.inputs, degree=self.degree)
        if self.degree > 20:  # above, far tails that no sample shows hold most of the variance
            raise ConfigError(f"run.data.degree must be at most 20, got {self.degree}")
        return DataShape(kind=FEATURES, inputs=(self.inputs,), outputs=1, loss=SQUARED)

    def load(self) -> Dataset:
        random = random_stream(self.task_seed, purpose=0)
        w_I = random.standard_normal(self.inputs)
        w_I /= np.linalg.norm(w_I)
        c = random.standard_normal(self.degree)
        c /= np.linalg.norm(c)
        series = [0.0, *(c_k / math.sqrt(math.factorial(k)) for k, c_k in enumerate(c, start=1))]

        def draw(random: np.random.Generator, count: int) -> tuple[Values, Values]:
            x_BI = random.standard_normal((count, self.inputs))
            y_B: Values = hermite_e.hermeval(x_BI @ w_I, series)
            return x_BI, y_B[:, None]

        return Task(draw, settings=repr(self), noise=self.noise)
