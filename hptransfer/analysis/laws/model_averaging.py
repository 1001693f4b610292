"""Bayesian model averaging over laws.

A form is weighted by how well it predicts larger scales from smaller ones. A prediction is the weighted mean over forms
of the response surface, forms of the law and scatters about it. Where the runs do not distinguish the forms, their
spread widens the interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.laws.forms import LAWS, SweptAxes, Variant
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.statistics.linear_model import (
    LinearLaw,
    Posterior,
    log_predictive_score,
    log_prior,
    scatters,
    solve_each,
)
from hptransfer.analysis.statistics.quantiles import quantiles
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.core.errors import FitError

POWER = "power"
# The power law is the null model: its prior weight is that of all other forms together.
NULL_WEIGHT = 0.5
# A component with less weight is left out.
LEAST_WEIGHT = 1e-3
# Prior deviation of the optimum at the smallest scale, octaves about the middle of the tried values.
LEVEL_OCTAVES = 5.0
# Deviation of a coefficient with an uninformative prior.
VAGUE_DEVIATION = 100.0


@dataclass(frozen=True, eq=False)
class Component:
    """One form of the law at one scatter, fitted to one estimate.

    Attributes:
        estimate: index of the estimate.
        weight: share of the mixture.
        scatter: octaves, by tuned hyperparameter.
    """

    variant: Variant
    law: LinearLaw
    estimate: int
    weight: float
    scatter: Array
    posterior: Posterior

    def mean(self, scales: Sequence[Axes]) -> Array:
        """Return log2 of the optimum at scales, (scales, tuned)."""
        optima: Array = self.variant.matrix(scales) @ self.posterior.coefficients.T
        return optima

    def error(self, scale: Axes) -> Array:
        """Return the standard error of a new scale's optimum, octaves, (tuned,).

        It includes the law's error and the scatter of scales about the law.
        """
        row = self.law.block_features(self.variant.matrix([scale]))
        variance: Array = np.einsum("kc,cd,kd->k", row, self.posterior.covariance, row) + self.scatter**2
        return np.sqrt(variance)

    def draws(self, scales: Sequence[Axes], normals: Array) -> Array:
        """Return draws of the law at scales, (draws, scales, tuned).

        Args:
            normals: standard normal numbers, (draws, tuned * coefficients).
        """
        root = np.linalg.cholesky(self.posterior.covariance)
        coefficients = self.posterior.coefficients.reshape(-1) + normals[:, : len(root)] @ root.T
        by_tuned = coefficients.reshape(len(normals), len(self.scatter), -1)
        optima: Array = np.einsum("sc,dkc->dsk", self.variant.matrix(scales), by_tuned)
        return optima


def linear_law(
    variant: Variant, scales: Sequence[Axes], tuned: Sequence[str], centre: Array, *, vague: bool
) -> LinearLaw:
    """Return a variant on these scales with the priors of its coefficients.

    Args:
        centre: log2 of the middle of the tried values, by tuned hyperparameter.
        vague: use uninformative priors.
    """
    means, deviations = np.zeros((2, len(tuned), len(variant.terms)))
    for k, name in enumerate(tuned):
        for c, term in enumerate(variant.terms):
            if term.mean is not None and term.deviation is not None:
                means[k, c], deviations[k, c] = term.mean, term.deviation
            elif term.axis is not None:
                means[k, c], deviations[k, c] = priors.slope(name, term.axis)
            else:
                means[k, c], deviations[k, c] = centre[k], LEVEL_OCTAVES
    if vague:
        deviations = np.full_like(deviations, VAGUE_DEVIATION)
    return LinearLaw(variant.matrix(scales), means, deviations)


@dataclass(frozen=True, eq=False)
class LawProblem:
    """Inputs of a law fit besides the optima: scales, tuned hyperparameters, priors.

    Attributes:
        tuned: names that select the priors; "" for an uninformative one.
        centre: log2 of the middle of the tried values, by tuned hyperparameter.
        vague: use uninformative priors for all coefficients.
    """

    scales: Sequence[Axes]
    tuned: Sequence[str]
    centre: Array
    vague: bool

    @property
    def swept(self) -> SweptAxes:
        """Swept values of every axis."""
        return SweptAxes.of(self.scales)

    def linear(self, variant: Variant) -> LinearLaw:
        """Return a variant on the scales with the priors of its coefficients."""
        return linear_law(variant, self.scales, self.tuned, self.centre, vague=self.vague)

    def power(self) -> Variant:
        """Return the power law, the null model."""
        return LAWS.get(POWER).variants(self.swept)[0]


def average_models(problem: LawProblem, estimates: Sequence[OptimaEstimate], laws: Sequence[str]) -> list[Component]:
    """Return all components with a considerable weight, heaviest first.

    Their weights add up to 1.

    Raises:
        FitError: none of the laws applies to the axes that were swept.
    """
    swept = problem.swept
    first = 1 + len(swept.moving)
    forms = {name: LAWS.get(name).variants(swept) for name in laws}
    forms = {name: variants for name, variants in forms.items() if variants}
    if not forms:
        raise FitError(f"none of the laws {', '.join(laws)} applies to {', '.join(swept.moving)}; add power")
    if len(problem.scales) <= first and POWER in forms:
        forms = {POWER: forms[POWER]}  # no scale is left to compare the forms on
    components = []
    for index, estimate in enumerate(estimates):
        logs = {}
        for name, variants in forms.items():
            share = NULL_WEIGHT if name == POWER else (1 - NULL_WEIGHT) / max(1, len(forms) - 1)
            for variant in variants:
                score = (
                    log_predictive_score(estimate.likelihood, problem.linear(variant), first)
                    if len(problem.scales) > first
                    else 0.0
                )
                logs[variant] = np.log(share / len(variants)) + score
        top = max(logs.values())
        total = sum(np.exp(log - top) for log in logs.values())
        for variant, log in logs.items():
            weight = float(np.exp(log - top) / total / len(estimates))
            components += _components(problem, estimate, index, variant, weight)
    return normalized(components)


def power_law_components(problem: LawProblem, estimates: Sequence[OptimaEstimate]) -> list[Component]:
    """Return the power law's components, which exponents are computed from."""
    variant, weight = problem.power(), 1 / len(estimates)
    parts = (_components(problem, estimate, index, variant, weight) for index, estimate in enumerate(estimates))
    return normalized(list(itertools.chain.from_iterable(parts)))


def _components(
    problem: LawProblem, estimate: OptimaEstimate, index: int, variant: Variant, weight: float
) -> list[Component]:
    if weight < LEAST_WEIGHT:
        return []
    law, grid = problem.linear(variant), scatters(estimate.likelihood.tuned)
    posteriors = solve_each(estimate.likelihood, law, grid)
    pairs = zip(posteriors, grid, strict=True)
    logs = np.array([posterior.evidence + log_prior(scatter) for posterior, scatter in pairs])
    shares = np.exp(logs - logs.max())
    shares *= weight / shares.sum()
    return [
        Component(variant, law, index, float(share), np.array(scatter), posterior)
        for share, scatter, posterior in zip(shares, grid, posteriors, strict=True)
    ]


def normalized(components: Sequence[Component]) -> list[Component]:
    """Return the components with a considerable weight, heaviest first.

    Their weights add up to 1.
    """
    kept = sorted((part for part in components if part.weight >= LEAST_WEIGHT), key=lambda part: -part.weight)
    total = sum(part.weight for part in kept)
    return [replace(part, weight=part.weight / total) for part in kept]


@dataclass(frozen=True, eq=False)
class ModelAverage:
    """Components with a number of draws from each.

    Attributes:
        counts: draws from each component, in proportion to its weight.
        normals: standard normal numbers of each draw.
    """

    components: Sequence[Component]
    counts: Sequence[int]
    normals: Array

    @classmethod
    def of(cls, components: Sequence[Component], draws: int, seed: int) -> ModelAverage:
        """Return the average of components whose weights add up to 1."""
        ends = np.round(np.cumsum([part.weight for part in components]) * draws).astype(int)
        counts = np.diff(ends, prepend=0)
        width = max(part.posterior.covariance.shape[0] for part in components)
        return cls(components, list(counts), np.random.default_rng(seed).standard_normal((draws, width)))

    def mean(self, scales: Sequence[Axes]) -> Array:
        """Return log2 of the optimum at scales, (scales, tuned)."""
        mean: Array = sum((part.weight * part.mean(scales) for part in self.components), np.zeros(1))
        return mean

    def draws(self, scales: Sequence[Axes]) -> Array:
        """Return draws of the law at scales, (draws, scales, tuned)."""
        parts, start = [], 0
        for part, count in zip(self.components, self.counts, strict=True):
            if count:
                parts.append(part.draws(scales, self.normals[start : start + count]))
            start += count
        return np.concatenate(parts)

    def quantiles(self, scale: Axes, shares: Sequence[float]) -> Array:
        """Return exact quantiles of a new scale's optimum, (tuned, shares).

        The new scale scatters about the law as the others do.

        Args:
            shares: probabilities below each quantile, between 0 and 1.
        """
        weights = np.array([part.weight for part in self.components])
        means = np.array([part.mean([scale])[0] for part in self.components])
        errors = np.array([part.error(scale) for part in self.components])
        return quantiles(weights, means, errors, shares)

    def shares(self) -> dict[str, float]:
        """Return the weight of each form of law."""
        weights: dict[str, float] = {}
        for part in self.components:
            weights[part.variant.law] = weights.get(part.variant.law, 0.0) + part.weight
        return weights

    def scatter(self) -> Array:
        """Return the mean scatter of scales about the law, octaves, (tuned,)."""
        mean: Array = sum((part.weight * part.scatter for part in self.components), np.zeros(1))
        return mean
