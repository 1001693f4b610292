"""Probability that a run diverges, over the tuned hyperparameters and the scale.

    log odds = intercept + sum over k of s_k log2(value_k) + sum over axes of g_axis log2(axis over its middle)
    p = slip + (1 - 2 slip) / (1 + exp(-log odds))

The edge of even odds is a property of each scale and moves with its size. The slip is the share of runs that diverge or
survive for a reason of their own. The posterior is a normal about its mode (Laplace); a probability is its mean over
that normal. Runs that ended at a finite loss count as diverged by the probability that they are stray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from hptransfer.analysis.statistics import priors
from hptransfer.analysis.tables.arrays import Array, Axes, Mask, Runs

SLIP = 0.02
# Octaves above all tried values beyond which an edge is not shown.
EDGE_OCTAVES = 2.0
# Nodes of the mean over the log odds' normal.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(21)


@dataclass(frozen=True, eq=False)
class DivergenceModel:
    """Fitted probability of divergence.

    Attributes:
        runs: whose tuned values and scales are the features.
        coefficients: intercept, slope by tuned hyperparameter, slope by axis, with their `covariance`.
    """

    runs: Runs
    coefficients: Array
    covariance: Array

    def probability(self, x: Array, scale: Axes) -> Array:
        """Return the probability that a run diverges, (points,).

        Args:
            x: log2 of the tuned values, (points, tuned).
        """
        points = np.atleast_2d(x)
        return self.probabilities(points, [scale] * len(points))

    def probabilities(self, x: Array, scales: Sequence[Axes]) -> Array:
        """Return probabilities at points with scales of their own, (points,)."""
        features = _features(self.runs, x, scales)
        deviation = np.sqrt(np.einsum("pc,cd,pd->p", features, self.covariance, features))
        odds = (features @ self.coefficients)[:, None] + deviation[:, None] * _NODES
        probability: Array = expit(odds) @ _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
        return probability

    def edge(self, x: Array, scale: Axes, k: int) -> float:
        """Return log2 of the value of even odds, the others at x.

        NaN if larger values do not diverge, or if the edge lies so far above all tried values that no run shows it.

        Args:
            k: index of the tuned hyperparameter.
        """
        if not self.has_edge[k]:
            return float("nan")
        odds = (_features(self.runs, x[None], [scale]) @ self.coefficients).item()
        edge = float(x[k] - odds / self.coefficients[1 + k])
        return edge if edge <= self.runs.x[:, k].max() + EDGE_OCTAVES else float("nan")

    @property
    def has_edge(self) -> Mask:
        """True where larger values diverge, by two standard errors of the slope."""
        slopes = slice(1, 1 + self.runs.x.shape[1])
        edge: Mask = self.coefficients[slopes] > 2 * np.sqrt(np.diag(self.covariance)[slopes])
        return edge


def fit_divergence(runs: Runs, diverged: Array) -> DivergenceModel | None:
    """Fit the model to all runs; None if no run diverged.

    Args:
        diverged: probability of each run to have diverged, (runs,); 1 where its loss is infinite.
    """
    if not (diverged > 0.5).any():
        return None
    features = _features(runs, runs.x, [runs.scales[index] for index in runs.scale])
    means, deviations = priors.divergence(runs.columns.known, len(runs.columns.scales))
    precision = deviations**-2.0

    def objective(coefficients: Array) -> tuple[float, Array]:
        p = expit(features @ coefficients)
        mixed = SLIP + (1 - 2 * SLIP) * p
        away = (coefficients - means) * precision
        value = -(diverged @ np.log(mixed) + (1 - diverged) @ np.log1p(-mixed)) + 0.5 * away @ (coefficients - means)
        by_mixed = (1 - diverged) / (1 - mixed) - diverged / mixed
        return float(value), features.T @ (by_mixed * (1 - 2 * SLIP) * p * (1 - p)) + away

    mode = minimize(objective, means, jac=True, method="L-BFGS-B").x
    p = expit(features @ mode)
    mixed = SLIP + (1 - 2 * SLIP) * p
    information = ((1 - 2 * SLIP) * p * (1 - p)) ** 2 / (mixed * (1 - mixed))
    covariance = np.linalg.inv(features.T @ (features * information[:, None]) + np.diag(precision))
    return DivergenceModel(runs, mode, covariance)


def _features(runs: Runs, x: Array, scales: Sequence[Axes]) -> Array:
    middle = (runs.x.min(axis=0) + runs.x.max(axis=0)) / 2
    return np.column_stack([np.ones(len(x)), x - middle, runs.octaves(scales)])
