"""Noise of runs and discrepancy of the form, estimated from residuals."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.optima.run_selection import SelectedRuns
from hptransfer.analysis.tables.arrays import Array

# Prior of the noise: degrees of freedom, and standard deviation in log loss.
NOISE_FREEDOM, NOISE_ASSUMED = 3.0, 0.001
# Degrees of freedom of the residuals' t distribution.
STRAY_FREEDOM = 8.0
_DISCREPANCIES = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6])
_NOISES = np.geomspace(1e-6, 0.3, 64)
# Runs used by the grid search for noise and discrepancy, evenly spread over the excess, to limit its cost.
_SEARCHED_RUNS = 4000
# Weight of the common noise relative to a scale's own, in runs.
COMMON_NOISE = 10.0


def noise_and_discrepancy(residuals: Array, excess: Array, leverage: Array) -> tuple[float, float]:
    """Estimate noise and discrepancy by maximum likelihood.

    Residuals have variance noise^2 + (discrepancy excess)^2 and a Student's t distribution, so that a few outliers do
    not increase the noise.
    """
    squares = residuals**2 / (1 - leverage)
    order = np.argsort(excess)[:: max(1, len(excess) // _SEARCHED_RUNS)]
    squares, above = squares[order], excess[order]
    best = (np.inf, NOISE_ASSUMED, 0.0)
    for discrepancy in _DISCREPANCIES:
        variance = _NOISES[:, None] ** 2 + (discrepancy * above) ** 2
        assumed = NOISE_FREEDOM * (2 * np.log(_NOISES) + (NOISE_ASSUMED / _NOISES) ** 2)
        tails = (STRAY_FREEDOM + 1) * np.log1p(squares / variance / STRAY_FREEDOM)
        deviance = (np.log(variance) + tails).sum(axis=1) + assumed
        lowest = int(np.argmin(deviance))
        best = min(best, (float(deviance[lowest]), float(_NOISES[lowest]), float(discrepancy)))
    return best[1], best[2]


def variances(data: SelectedRuns, residuals: Array, excess: Array, leverage: Array, variance: Array) -> Array:
    """Return variances adapted to each scale's own noise."""
    scales = len(data.octaves)
    ratio = np.bincount(data.scale, residuals**2 / variance, scales)
    freedom = np.bincount(data.scale, 1 - leverage, scales)
    factor: Array = (COMMON_NOISE + ratio) / (COMMON_NOISE + freedom)
    return variance * factor[data.scale]


def t_shrink(freedom: float) -> float:
    """Return the variance of a normal over that of Student's t."""
    return (freedom - 2) / freedom if freedom > 4 else 0.5
