"""Power-law random features: linear regression with power-law spectrum and target (arXiv:2405.15074)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.training.datasets import DATASETS, FEATURES, SQUARED, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._online import Task, Values, require_at_least


@DATASETS.register("power_law")
@dataclass(kw_only=True)
class PowerLawConfig(DataConfig):
    """Settings of power-law features x_j and target y = sum_j j^-beta x_j.

    x_j has variance j^(-2 alpha). Trained by SGD from zero, a linear model of all features has the expected losses of a
    quadratic with a power-law spectrum. Its exponents are q = 2 alpha and s = 2 beta. The paper's random projection to
    d parameters is left to the model.
    """

    name: str = "power_law"
    inputs: int = 256
    """Number of features; at least 1."""
    alpha: float = 1.0
    """Half the exponent of the spectrum; at least 0."""
    beta: float = 0.5
    """Exponent of the target; at least 0."""
    noise: float = 0.0
    """Standard deviation of the training targets' noise; at least 0."""

    def shape(self, sequence: int) -> DataShape:
        self.require_no_positions(sequence)
        require_at_least(0, alpha=self.alpha, beta=self.beta, noise=self.noise)
        require_at_least(1, inputs=self.inputs)
        return DataShape(kind=FEATURES, inputs=(self.inputs,), outputs=1, loss=SQUARED)

    def load(self) -> Dataset:
        j_I = np.arange(1, self.inputs + 1, dtype=np.float64)
        deviation_I, target_I = j_I**-self.alpha, j_I**-self.beta

        def draw(random: np.random.Generator, count: int) -> tuple[Values, Values]:
            x_BI = random.standard_normal((count, self.inputs)) * deviation_I
            return x_BI, (x_BI @ target_I)[:, None]

        return Task(draw, settings=repr(self), noise=self.noise)
