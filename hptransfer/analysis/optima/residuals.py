"""Noise, discrepancy of the form and stray runs, estimated from residuals.

A residual in the response is one of two kinds:

    sound   Student's t with the variance noise^2 + (discrepancy excess)^2
    stray   Cauchy with a width of tens of percent: a run that broke, diverged to a finite loss or was misreported

The share of stray runs is two percent before any run; one in twenty of them is better than it should be, as runs break
upward. The probability of each run follows from its residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from hptransfer.analysis.optima.run_selection import SelectedRuns
from hptransfer.analysis.tables.arrays import Array

# Prior of the noise: degrees of freedom, and standard deviation in the response.
NOISE_FREEDOM, NOISE_ASSUMED = 2.0, 0.001
# Degrees of freedom of the t distribution of sound residuals.
SOUND_FREEDOM = 8.0
# Prior share of stray runs, and the width of their residuals in the response.
STRAY_SHARE, STRAY_WIDTH, BETTER_SHARE = 0.02, 0.3, 0.05
_DISCREPANCIES = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
_NOISES = np.geomspace(1e-6, 0.3, 64)
# Runs used by the grid search for noise and discrepancy, evenly spread over the excess, to limit its cost.
_SEARCHED_RUNS = 4000
# Weight of the common noise relative to a scale's own, in runs.
COMMON_NOISE = 10.0
_LOG_T = gammaln((SOUND_FREEDOM + 1) / 2) - gammaln(SOUND_FREEDOM / 2) - 0.5 * np.log(SOUND_FREEDOM * np.pi)


@dataclass(frozen=True)
class Noise:
    """Sizes of the residuals.

    Attributes:
        noise: standard deviation of a run's response at the optimum.
        discrepancy: error of the shape's form, as a share of the excess.
        deviance: minus twice the log of the likelihood and of the noise's prior.
    """

    noise: float
    discrepancy: float
    deviance: float


def sound_probability(residuals: Array, variance: Array) -> Array:
    """Return the probability that each residual is of a sound run."""
    difference = _log_stray(residuals) - _log_sound(residuals**2, variance)
    probability: Array = 1 / (1 + np.exp(np.clip(difference, -700, 700)))
    return probability


def robust_weights(residuals: Array, variance: Array) -> Array:
    """Return weights: the t distribution's times the probability of soundness."""
    tails = (SOUND_FREEDOM + 1) / (SOUND_FREEDOM + residuals**2 / variance)
    weights: Array = sound_probability(residuals, variance) * tails / variance
    return weights


def noise_and_discrepancy(residuals: Array, excess: Array, leverage: Array) -> Noise:
    """Estimate noise and discrepancy by maximum likelihood, beside stray runs.

    The likelihood of a run is that of its residual from a fit without it, so that a fit through few runs gains nothing.
    """
    order = np.argsort(excess)[:: max(1, len(excess) // _SEARCHED_RUNS)]
    above, left = excess[order], 1 - leverage[order]
    squares, without = residuals[order] ** 2 / left, residuals[order] / left
    best = (np.inf, NOISE_ASSUMED, 0.0)
    for discrepancy in _DISCREPANCIES:
        variance = _NOISES[:, None] ** 2 + (discrepancy * above) ** 2
        assumed = NOISE_FREEDOM * (2 * np.log(_NOISES) + (NOISE_ASSUMED / _NOISES) ** 2)
        logs = np.logaddexp(_log_sound(squares, variance) + 0.5 * np.log(left), _log_stray(without))
        deviance = assumed - 2 * logs.sum(axis=1)
        lowest = int(np.argmin(deviance))
        best = min(best, (float(deviance[lowest]), float(_NOISES[lowest]), float(discrepancy)))
    return Noise(best[1], best[2], best[0])


def _log_sound(squares: Array, variance: Array) -> Array:
    tails = (SOUND_FREEDOM + 1) / 2 * np.log1p(squares / variance / SOUND_FREEDOM)
    log: Array = np.log(1 - STRAY_SHARE) + _LOG_T - 0.5 * np.log(variance) - tails
    return log


def _log_stray(residuals: Array) -> Array:
    side = np.where(residuals > 0, 2 * (1 - BETTER_SHARE), 2 * BETTER_SHARE)
    log: Array = np.log(side * STRAY_SHARE / (np.pi * STRAY_WIDTH)) - np.log1p((residuals / STRAY_WIDTH) ** 2)
    return log


def variances(data: SelectedRuns, residuals: Array, sound: Array, leverage: Array, variance: Array) -> Array:
    """Return variances adapted to each scale's own noise.

    Args:
        sound: probability of each run to be sound, (runs,).
    """
    scales = len(data.octaves)
    ratio = np.bincount(data.scale, sound * residuals**2 / variance, scales)
    freedom = np.bincount(data.scale, sound * (1 - leverage), scales)
    factor: Array = (COMMON_NOISE + ratio) / (COMMON_NOISE + freedom)
    return variance * factor[data.scale]


def t_shrink(freedom: float) -> float:
    """Return the variance of a normal over that of Student's t."""
    return (freedom - 2) / freedom if freedom > 4 else 0.5
