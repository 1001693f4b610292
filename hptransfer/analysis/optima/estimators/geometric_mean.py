"""Geometric mean of the runs within 0.25% of the best of their scale (Step Law, DeepSeek)."""

from __future__ import annotations

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

NEAR = 0.0025


class GeometricMean(ByScale):
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        best = float(losses.min())
        return x[losses < best * (1 + NEAR)].mean(axis=0), best


ESTIMATORS.register("geometric_mean")(GeometricMean())
