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
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Index, Mask

# Grid of the scatter of scales about the law in octaves, and the scale of its half-Cauchy prior, which is its median.
# The tail covers the optima of public iso-FLOP experiments and of small nets, which scatter by 0.03 to 0.15.
SCATTERS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
SCATTER_SCALE = 0.02
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

    The prior of the coefficients is a mixture of normals with common means: a heavy tail is one of a few spreads.

    Attributes:
        features: (scales, coefficients).
        means: of the coefficients before any run, (tuned, coefficients).
        deviations: of the coefficients before any run, (spreads, tuned, coefficients).
        shares: prior weights of the spreads, (spreads,); they add up to 1.
    """

    features: Array
    means: Array
    deviations: Array
    shares: Array

    def only(self, scales: Sequence[int] | Index) -> LinearLaw:
        """Return the law on some of the scales."""
        return replace(self, features=self.features[np.asarray(scales)])

    def block_features(self, features: Array) -> Array:
        """Return features of all tuned hyperparameters, (scales * tuned, tuned * coefficients)."""
        tuned = len(self.means)
        blocks: Array = np.einsum("sc,kj->skjc", features, np.eye(tuned))
        return blocks.reshape(len(features) * tuned, -1)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of a law: a mixture of normals.

    It has a point for each scatter and spread.

    Attributes:
        scatter: octaves, (points, tuned).
        deviations: prior deviations of the coefficients, (points, tuned, coefficients).
        log_weight: log marginal likelihood plus the log of the prior of scatter and spread, (points,).
        coefficients: means, (points, tuned, coefficients).
        covariance: of the coefficients, (points, tuned * coefficients, tuned * coefficients).
    """

    scatter: Array
    deviations: Array
    log_weight: Array
    coefficients: Array
    covariance: Array

    @property
    def log_evidence(self) -> float:
        """Log marginal likelihood, with scatter and spread integrated out."""
        return float(np.logaddexp.reduce(self.log_weight))

    @property
    def weights(self) -> Array:
        """Weights of the points, (points,); they add up to 1."""
        weights: Array = np.exp(self.log_weight - self.log_evidence)
        return weights

    def at(self, points: Index | Mask) -> Posterior:
        """Return the posterior at some points, by index or mask."""
        return Posterior(
            self.scatter[points],
            self.deviations[points],
            self.log_weight[points],
            self.coefficients[points],
            self.covariance[points],
        )


# Numbers in a stack of matrices that is solved at once: few calls, and memory below a hundred megabytes.
_STACKED_NUMBERS = 2_000_000


def solve(
    likelihood: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]] | Array | None = None
) -> Posterior:
    """Return the posterior of a law at each scatter and spread.

    Args:
        grid: scatters by tuned hyperparameter, octaves; None: the grid that is integrated over.
    """
    grid = scatters(likelihood.tuned) if grid is None else [tuple(scatter) for scatter in grid]
    step = max(1, _STACKED_NUMBERS // likelihood.information.size)
    stacks = [_solve_stacked(likelihood, law, grid[start : start + step]) for start in range(0, len(grid), step)]
    return Posterior(*(np.concatenate(parts) for parts in zip(*stacks, strict=True)))


def _solve_stacked(
    likelihood: OptimaLikelihood, law: LinearLaw, grid: Sequence[Sequence[float]]
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the fields of a posterior.

    The optima are integrated out at each scatter. The small system of the coefficients is solved for each spread.
    """
    law_precision = np.tile(1 / np.square(grid), (1, likelihood.num_scales))
    rows = law.block_features(law.features)
    weighed = law_precision[:, :, None] * rows
    optima_precision = likelihood.information + (law_precision + RIDGE)[:, :, None] * np.eye(len(rows))
    root = np.linalg.cholesky(optima_precision)
    information_vector = np.broadcast_to(likelihood.information_vector[:, None], (len(grid), len(rows), 1))
    divided = np.linalg.solve(optima_precision, np.concatenate([weighed, information_vector], axis=2))
    measured = rows.T @ weighed - np.swapaxes(weighed, 1, 2) @ divided[:, :, :-1]
    measured_vector = (np.swapaxes(weighed, 1, 2) @ divided[:, :, -1:])[:, None, :, 0]

    means, spreads = law.means.reshape(-1), len(law.deviations)
    precision = 1 / law.deviations.reshape(spreads, -1) ** 2
    coefficient_precision = measured[:, None] + precision[:, :, None] * np.eye(len(means))
    vector = measured_vector + precision * means
    covariance = np.linalg.inv(coefficient_precision)
    coefficients = (covariance @ vector[..., None])[..., 0]
    of_optima = 0.5 * np.log(law_precision).sum(axis=1) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    of_optima += 0.5 * divided[:, :, -1] @ likelihood.information_vector
    of_coefficients = 0.5 * (np.log(precision).sum(axis=1) - np.linalg.slogdet(coefficient_precision)[1])
    of_coefficients += 0.5 * ((vector * coefficients).sum(axis=2) - precision @ means**2)
    prior = np.array([log_prior(scatter) for scatter in grid])[:, None] + np.log(law.shares)
    points = len(grid) * spreads
    return (
        np.repeat(np.array(grid), spreads, axis=0),
        np.tile(law.deviations, (len(grid), 1, 1)),
        (of_optima[:, None] + of_coefficients + prior).reshape(points),
        coefficients.reshape(points, *law.means.shape),
        covariance.reshape(points, len(means), len(means)),
    )


def scatters(tuned: int) -> list[tuple[float, ...]]:
    """Return the grid of scatters that is integrated over."""
    if tuned > OWN_SCATTER:
        return [(scatter,) * tuned for scatter in SCATTERS]
    return list(itertools.product(SCATTERS, repeat=tuned))


def log_prior(scatter: Sequence[float]) -> float:
    """Return the log of a half-Cauchy prior on a logarithmic grid."""
    return float(sum(np.log(octaves) - np.log1p((octaves / SCATTER_SCALE) ** 2) for octaves in scatter))


def log_predictive_score(likelihood: OptimaLikelihood, law: LinearLaw, first: int) -> float:
    """Return the log likelihood of the scales beyond the `first` cheapest ones.

    Each of them is predicted from those before it.
    """
    small = np.arange(first)
    return solve(likelihood, law).log_evidence - solve(likelihood.only(small), law.only(small)).log_evidence
