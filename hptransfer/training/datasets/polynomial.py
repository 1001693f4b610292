"""Regression on a fixed random polynomial along one random direction of the inputs; no point comes twice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite_e

from hptransfer.core.errors import ConfigError
from hptransfer.training.datasets import DATASETS, FEATURES, SQUARED, DataConfig, Dataset, Shape
from hptransfer.training.datasets._online import Task, Values, at_least, stream


@DATASETS.register("polynomial")
@dataclass(kw_only=True)
class PolynomialConfig(DataConfig):
    """y = sum_k c_k He_k(w.x) / sqrt(k!), k = 1..degree, with |w| = |c| = 1.

    The probabilists' Hermite polynomials He_k / sqrt(k!) are orthonormal under N(0, 1), so that y
    has mean 0 and variance 1 at every degree.
    """

    name: str = "polynomial"
    inputs: int = 16
    """Dimensions of the points, N(0, 1) each; at least 1."""
    degree: int = 3
    """Of the polynomial; from 1 to 20."""
    noise: float = 0.1
    """Standard deviation of the training targets' noise, the polynomial's own being 1; at least 0."""
    task_seed: int = 0
    """Draws the polynomial and the direction; at least 0."""

    def shape(self, sequence: int) -> Shape:
        self.without_positions(sequence)
        at_least(0, task_seed=self.task_seed, noise=self.noise)
        at_least(1, inputs=self.inputs, degree=self.degree)
        if self.degree > 20:  # far tails then hold most of the variance, beyond what any sample shows
            raise ConfigError(f"run.data.degree must be at most 20, got {self.degree}")
        return Shape(kind=FEATURES, inputs=(self.inputs,), outputs=1, loss=SQUARED)

    def load(self) -> Dataset:
        random = stream(self.task_seed, purpose=0)
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
