"""Normal model of a law given the optima's likelihood, solved exactly.

    likelihood   of all optima together, normal: precision `information`, and `information_vector`, precision times mean
    optima       x* = features(scale) @ coefficients + scatter, independent by scale and tuned hyperparameter
    prior        coefficients are independent normals

A law is not exact: scales scatter about it by more than their own errors. The scatter is unknown and is integrated
over a grid. The ratio of the marginal likelihoods of all scales and of the cheapest ones scores how well a form
predicts larger scales from smaller ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Index

# Grid of the scatter of scales about the law in octaves. The scale of its half-Cauchy prior was measured on small nets.
# No scale lies on a law to better than 0.03, because the form of the response surface has an error too.
SCATTERS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
SCATTER_SCALE = 0.15
# Up to this number of tuned hyperparameters each has its own scatter; more of them share one, to limit the grid.
OWN_SCATTER = 2
# Added to a precision that may be singular: a scale without runs has no information.
RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class OptimaLikelihood:
    """Normal likelihood of the optima, (scales * tuned) values, scale by scale.

    Attributes:
        information: precision, (scales * tuned) squared.
        information_vector: precision times mean, (scales * tuned,).
    """

    information: Array
    information_vector: Array
    tuned: int

    @property
    def num_scales(self) -> int:
        """Number of scales."""
        return len(self.information_vector) // self.tuned

    def only(self, scales: Sequence[int] | Index) -> OptimaLikelihood:
        """Return the marginal likelihood of some scales, the others being unknown."""
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

    def by_scale(self) -> tuple[Array, Array]:
        """Return each scale's optimum by its own runs with its standard error.

        Returns:
            Both (scales, tuned); the error is very large where the runs have no information.
        """
        scale = np.sqrt(np.diag(self.information)).max() or 1.0  # 0: no scale has any information
        eigen = np.linalg.eigh(self.information / scale**2)
        regular = eigen.eigenvalues > 1e-10
        inverse = np.where(regular, 1 / np.where(regular, eigen.eigenvalues, 1.0), 1e12)
        covariance = (eigen.eigenvectors * inverse) @ eigen.eigenvectors.T / scale**2
        x = covariance @ self.information_vector
        error = np.sqrt(np.diag(covariance))
        return x.reshape(-1, self.tuned), error.reshape(-1, self.tuned)


@dataclass(frozen=True, eq=False)
class LinearLaw:
    """Law that is linear in its coefficients, for all tuned hyperparameters.

    Attributes:
        features: (scales, coefficients).
        means, deviations: of the coefficients before any run, (tuned, coefficients).
    """

    features: Array
    means: Array
    deviations: Array

    def only(self, scales: Sequence[int] | Index) -> LinearLaw:
        """Return the law on some of the scales."""
        return LinearLaw(self.features[np.asarray(scales)], self.means, self.deviations)

    def block_features(self, features: Array) -> Array:
        """Return features of all tuned hyperparameters, (scales * tuned, tuned * coefficients)."""
        tuned = len(self.means)
        blocks: Array = np.einsum("sc,kj->skjc", features, np.eye(tuned))
        return blocks.reshape(len(features) * tuned, -1)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of a law at one scatter.

    Attributes:
        evidence: log marginal likelihood.
        coefficients: means, (tuned, coefficients), with their `covariance`, (tuned * coefficients) squared.
        optima: posterior means of log2 of the optima, (scales, tuned).
    """

    evidence: float
    coefficients: Array
    covariance: Array
    optima: Array


# Numbers in a stack of matrices that is solved at once: few calls, and memory below a hundred megabytes.
_STACKED_NUMBERS = 2_000_000


def solve(likelihood: OptimaLikelihood, law: LinearLaw, scatter: Sequence[float]) -> Posterior:
    """Return the posterior of a law at one scatter.

    Args:
        scatter: octaves, by tuned hyperparameter.
    """
    return solve_each(likelihood, law, [tuple(scatter)])[0]


def solve_each(likelihood: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]]) -> list[Posterior]:
    """Return the posterior of a law at each scatter of a grid."""
    step = max(1, _STACKED_NUMBERS // likelihood.information.size)
    stacks = (_solve_stacked(likelihood, law, grid[start : start + step]) for start in range(0, len(grid), step))
    return list(itertools.chain.from_iterable(stacks))


def _solve_stacked(likelihood: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]]) -> list[Posterior]:
    law_precision = np.tile(1 / np.square(grid), (1, likelihood.num_scales))
    rows = law.block_features(law.features)
    means, precision = law.means.reshape(-1), 1 / law.deviations.reshape(-1) ** 2
    weighed = law_precision[:, :, None] * rows
    optima_precision = likelihood.information + (law_precision + RIDGE)[:, :, None] * np.eye(len(rows))
    root = np.linalg.cholesky(optima_precision)
    information_vector = np.broadcast_to(likelihood.information_vector[:, None], (len(grid), len(rows), 1))
    divided = np.linalg.solve(optima_precision, np.concatenate([weighed, information_vector], axis=2))
    coefficient_precision = rows.T @ weighed - np.swapaxes(weighed, 1, 2) @ divided[:, :, :-1] + np.diag(precision)
    coefficient_vector = np.swapaxes(weighed, 1, 2) @ divided[:, :, -1:] + (precision * means)[:, None]
    covariance = np.linalg.inv(coefficient_precision)
    coefficients = (covariance @ coefficient_vector)[:, :, 0]
    evidence = (
        0.5
        * (np.log(law_precision).sum(axis=1) + np.log(precision).sum() - np.linalg.slogdet(coefficient_precision)[1])
        - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        + 0.5
        * (divided[:, :, -1] @ likelihood.information_vector + (coefficient_vector[:, :, 0] * coefficients).sum(axis=1))
        - 0.5 * means @ (precision * means)
    )
    optima = divided[:, :, -1] + (divided[:, :, :-1] @ coefficients[:, :, None])[:, :, 0]
    shape = law.means.shape
    return [
        Posterior(
            float(evidence[g]), coefficients[g].reshape(shape), covariance[g], optima[g].reshape(-1, likelihood.tuned)
        )
        for g in range(len(grid))
    ]


def scatters(tuned: int) -> list[tuple[float, ...]]:
    """Return the grid of scatters that is integrated over."""
    if tuned > OWN_SCATTER:
        return [(scatter,) * tuned for scatter in SCATTERS]
    return list(itertools.product(SCATTERS, repeat=tuned))


def log_prior(scatter: Sequence[float]) -> float:
    """Return the log of a half-Cauchy prior on a logarithmic grid."""
    return float(sum(np.log(octaves) - np.log1p((octaves / SCATTER_SCALE) ** 2) for octaves in scatter))


def log_evidence(likelihood: OptimaLikelihood, law: LinearLaw) -> float:
    """Return the log marginal likelihood, with the scatter integrated out."""
    grid = scatters(likelihood.tuned)
    posteriors = solve_each(likelihood, law, grid)
    logs = [posterior.evidence + log_prior(scatter) for posterior, scatter in zip(posteriors, grid, strict=True)]
    return float(np.logaddexp.reduce(logs))


def log_predictive_score(likelihood: OptimaLikelihood, law: LinearLaw, first: int) -> float:
    """Return the log likelihood of the scales beyond the `first` cheapest ones.

    Each of them is predicted from those before it.
    """
    small = np.arange(first)
    return log_evidence(likelihood, law) - log_evidence(likelihood.only(small), law.only(small))
