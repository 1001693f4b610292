"""Geometric mean of the runs within 0.25% of their scale's best.

The protocol of Step Law (arXiv:2503.04715) and DeepSeek LLM (arXiv:2401.02954).
"""

from __future__ import annotations

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

# Relative excess of the loss up to which a run is averaged.
NEAR = 0.0025


class GeometricMean(ByScale):
    """Estimator that averages the near-best runs of every scale."""

    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        best = float(losses.min())
        return x[losses < best * (1 + NEAR)].mean(axis=0), best


ESTIMATORS.register("geometric_mean")(GeometricMean())
