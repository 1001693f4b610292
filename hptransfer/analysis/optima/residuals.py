"""What the residuals of a surface say: of the noise of runs, and by what share of the excess its form is wrong."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.optima.run_selection import SelectedRuns
from hptransfer.analysis.tables.arrays import Array

# Degrees of freedom and standard deviation of what is assumed of the noise, in log loss, before any run.
NOISE_FREEDOM, NOISE_ASSUMED = 3.0, 0.001
# Of the residuals' distribution.
STRAY_FREEDOM = 8.0
_MISFITS = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6])
_NOISES = np.geomspace(1e-6, 0.3, 64)
# Runs that the search for noise and discrepancy looks at, evenly spread over the excess: it is a grid of sums.
_LOOKED_AT = 4000
# Weight of the common noise against a scale's own, in runs.
COMMON_NOISE = 10.0


def noise_and_discrepancy(left: Array, excess: Array, leverage: Array) -> tuple[float, float]:
    """Noise and discrepancy by maximum likelihood of residuals with variance noise^2 + (discrepancy excess)^2.

    Residuals are Student's t, so that a few strays do not pass for noise.
    """
    squares = left**2 / (1 - leverage)
    order = np.argsort(excess)[:: max(1, len(excess) // _LOOKED_AT)]
    squares, above = squares[order], excess[order]
    best = (np.inf, NOISE_ASSUMED, 0.0)
    for discrepancy in _MISFITS:
        variance = _NOISES[:, None] ** 2 + (discrepancy * above) ** 2
        assumed = NOISE_FREEDOM * (2 * np.log(_NOISES) + (NOISE_ASSUMED / _NOISES) ** 2)
        tails = (STRAY_FREEDOM + 1) * np.log1p(squares / variance / STRAY_FREEDOM)
        unlikely = (np.log(variance) + tails).sum(axis=1) + assumed
        place = int(np.argmin(unlikely))
        best = min(best, (float(unlikely[place]), float(_NOISES[place]), float(discrepancy)))
    return best[1], best[2]


def variances(data: SelectedRuns, left: Array, excess: Array, leverage: Array, variance: Array) -> Array:
    """Variances with each scale's own noise, as far as its runs show it."""
    scales = len(data.octaves)
    ratio = np.bincount(data.scale, left**2 / variance, scales)
    freedom = np.bincount(data.scale, 1 - leverage, scales)
    own: Array = (COMMON_NOISE + ratio) / (COMMON_NOISE + freedom)
    return variance * own[data.scale]


def t_shrink(freedom: float) -> float:
    """Variance of a normal over that of Student's t: few degrees of freedom know less."""
    return (freedom - 2) / freedom if freedom > 4 else 0.5
