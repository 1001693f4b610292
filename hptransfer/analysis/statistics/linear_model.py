"""From what is known of the scales' optima to a law: one normal model, solved exactly.

    told     what the runs say of all optima together: precision `information`, and `information_vector`
    optima   x* = features(scale) @ coefficients + scatter, independent by scale and tuned hyperparameter
    prior    coefficients are independent normals

A law is not exact and scales scatter about it by more than their own errors; that scatter is unknown
and is integrated over a grid. The marginal likelihood of more and more scales, cheapest first, is at
once how well a form predicts the larger scales from the smaller ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Index

# Scatter of scales about the law, octaves; a half-Cauchy around 0.15, which small nets of ours show. Nothing lies on
# a law to better than 0.03: the bowl has a form of its own too.
SCATTERS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
SCATTER_SCALE = 0.15
# Of so many tuned hyperparameters each has a scatter of its own; beyond, they share one, or the grid explodes.
OWN_SCATTER = 2
# What is added to a precision that may be singular: a scale without runs knows nothing.
RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class OptimaLikelihood:
    """What the runs say of the optima, (scales * tuned) values, scale by scale."""

    information: Array
    information_vector: Array
    tuned: int

    @property
    def num_scales(self) -> int:
        return len(self.information_vector) // self.tuned

    def only(self, scales: Sequence[int] | Index) -> OptimaLikelihood:
        """What is said of some scales if nothing is assumed of the others."""
        rows = (np.asarray(scales)[:, None] * self.tuned + np.arange(self.tuned)).reshape(-1)
        others = np.setdiff1d(np.arange(len(self.information_vector)), rows)
        across = self.information[np.ix_(rows, others)]
        inner = self.information[np.ix_(others, others)]
        through = across @ np.linalg.pinv(inner, hermitian=True) if len(others) else across
        information = self.information[np.ix_(rows, rows)] - through @ across.T
        return OptimaLikelihood(
            (information + information.T) / 2,
            self.information_vector[rows] - through @ self.information_vector[others],
            self.tuned,
        )

    def own(self) -> tuple[Array, Array]:
        """Each scale's optimum by its own runs and its standard error, (scales, tuned); infinite where nothing is."""
        scale = np.sqrt(np.diag(self.information)).max() or 1.0  # 0: nothing is said of any scale
        cut = np.linalg.eigh(self.information / scale**2)
        good = cut.eigenvalues > 1e-10
        inverse = np.where(good, 1 / np.where(good, cut.eigenvalues, 1.0), 1e12)
        covariance = (cut.eigenvectors * inverse) @ cut.eigenvectors.T / scale**2
        x = covariance @ self.information_vector
        error = np.sqrt(np.diag(covariance))
        return x.reshape(-1, self.tuned), error.reshape(-1, self.tuned)


@dataclass(frozen=True, eq=False)
class LinearLaw:
    """A law that is linear in its coefficients, for all tuned hyperparameters.

    Attributes:
        features: (scales, coefficients).
        means, deviations: of the coefficients before any run, (tuned, coefficients).
    """

    features: Array
    means: Array
    deviations: Array

    def only(self, scales: Sequence[int] | Index) -> LinearLaw:
        return LinearLaw(self.features[np.asarray(scales)], self.means, self.deviations)

    def whole(self, features: Array) -> Array:
        """Features of all tuned hyperparameters at once, (scales * tuned, tuned * coefficients)."""
        tuned = len(self.means)
        found: Array = np.einsum("sc,kj->skjc", features, np.eye(tuned))
        return found.reshape(len(features) * tuned, -1)


@dataclass(frozen=True, eq=False)
class Posterior:
    """A law at one scatter: log evidence, coefficients with their covariance, and where it has the optima."""

    evidence: float
    coefficients: Array
    covariance: Array
    optima: Array


# Numbers in a stack of matrices that is solved at once: enough to spare calls, few enough for a hundred megabytes.
_AT_ONCE = 2_000_000


def solve(told: OptimaLikelihood, law: LinearLaw, scatter: Sequence[float]) -> Posterior:
    """
    Args:
        scatter: octaves, by tuned hyperparameter.
    """
    return solve_each(told, law, [tuple(scatter)])[0]


def solve_each(told: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]]) -> list[Posterior]:
    """A law at each scatter of a grid."""
    step = max(1, _AT_ONCE // told.information.size)
    return [one for start in range(0, len(grid), step) for one in _stacked(told, law, grid[start : start + step])]


def _stacked(told: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]]) -> list[Posterior]:
    between = np.tile(1 / np.square(grid), (1, told.num_scales))
    rows = law.whole(law.features)
    means, precision = law.means.reshape(-1), 1 / law.deviations.reshape(-1) ** 2
    weighed = between[:, :, None] * rows
    whole = told.information + (between + RIDGE)[:, :, None] * np.eye(len(rows))
    root = np.linalg.cholesky(whole)
    information_vector = np.broadcast_to(told.information_vector[:, None], (len(grid), len(rows), 1))
    divided = np.linalg.solve(whole, np.concatenate([weighed, information_vector], axis=2))
    known = rows.T @ weighed - np.swapaxes(weighed, 1, 2) @ divided[:, :, :-1] + np.diag(precision)
    towards = np.swapaxes(weighed, 1, 2) @ divided[:, :, -1:] + (precision * means)[:, None]
    covariance = np.linalg.inv(known)
    coefficients = (covariance @ towards)[:, :, 0]
    evidence = (
        0.5 * (np.log(between).sum(axis=1) + np.log(precision).sum() - np.linalg.slogdet(known)[1])
        - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        + 0.5 * (divided[:, :, -1] @ told.information_vector + (towards[:, :, 0] * coefficients).sum(axis=1))
        - 0.5 * means @ (precision * means)
    )
    optima = divided[:, :, -1] + (divided[:, :, :-1] @ coefficients[:, :, None])[:, :, 0]
    shape = law.means.shape
    return [
        Posterior(float(evidence[g]), coefficients[g].reshape(shape), covariance[g], optima[g].reshape(-1, told.tuned))
        for g in range(len(grid))
    ]


def scatters(tuned: int) -> list[tuple[float, ...]]:
    """The grid of scatters that is integrated over."""
    if tuned > OWN_SCATTER:
        return [(one,) * tuned for one in SCATTERS]
    return list(itertools.product(SCATTERS, repeat=tuned))


def log_prior(scatter: Sequence[float]) -> float:
    """Half-Cauchy, on a grid that is even in the logarithm."""
    return float(sum(np.log(one) - np.log1p((one / SCATTER_SCALE) ** 2) for one in scatter))


def log_evidence(told: OptimaLikelihood, law: LinearLaw) -> float:
    """Log marginal likelihood, the scatter integrated out."""
    grid = scatters(told.tuned)
    solved = solve_each(told, law, grid)
    found = [one.evidence + log_prior(scatter) for one, scatter in zip(solved, grid, strict=True)]
    return float(np.logaddexp.reduce(found))


def log_predictive_score(told: OptimaLikelihood, law: LinearLaw, first: int) -> float:
    """Log likelihood of all scales beyond the `first` cheapest ones, each predicted from those before it."""
    small = np.arange(first)
    return log_evidence(told, law) - log_evidence(told.only(small), law.only(small))
