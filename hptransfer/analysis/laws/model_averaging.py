"""Laws weighed against each other: by what each predicts of larger scales from smaller ones.

A prediction is the mean over forms of the bowl, forms of the law and scatters about it, each with its
weight; where the runs cannot tell the forms apart, their spread widens the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
# The power law is the null model: before any run it weighs as much as all other forms together.
NULL_WEIGHT = 0.5
# A component that weighs less is left out.
LIGHT = 1e-3
# Spread of the optimum at the smallest scale before any run, octaves about the middle of what was tried.
LEVEL_OCTAVES = 5.0
# Deviation of a coefficient where nothing is to be assumed.
VAGUE = 100.0


@dataclass(frozen=True, eq=False)
class Component:
    """One form of the law at one scatter, through what one form of the estimator found.

    Attributes:
        found: index of what the estimator found.
        weight: share of the mixture.
        scatter: octaves, by tuned hyperparameter.
    """

    variant: Variant
    law: LinearLaw
    found: int
    weight: float
    scatter: Array
    solved: Posterior

    def mean(self, scales: Sequence[Axes]) -> Array:
        """log2 of the optimum at scales, (scales, tuned)."""
        answer: Array = self.variant.matrix(scales) @ self.solved.coefficients.T
        return answer

    def error(self, scale: Axes) -> Array:
        """Standard error of the optimum of one more scale, octaves, (tuned,): of the law there, and its scatter."""
        row = self.law.whole(self.variant.matrix([scale]))
        variance: Array = np.einsum("kc,cd,kd->k", row, self.solved.covariance, row) + self.scatter**2
        return np.sqrt(variance)

    def drawn(self, scales: Sequence[Axes], normals: Array) -> Array:
        """Draws of the law at scales, (draws, scales, tuned).

        Args:
            normals: (draws, tuned * coefficients).
        """
        root = np.linalg.cholesky(self.solved.covariance)
        coefficients = self.solved.coefficients.reshape(-1) + normals[:, : len(root)] @ root.T
        by_tuned = coefficients.reshape(len(normals), len(self.scatter), -1)
        answer: Array = np.einsum("sc,dkc->dsk", self.variant.matrix(scales), by_tuned)
        return answer


def linear_law(
    variant: Variant, scales: Sequence[Axes], tuned: Sequence[str], centre: Array, *, vague: bool
) -> LinearLaw:
    """A variant on these scales with what is known of its coefficients.

    Args:
        centre: log2 of the middle of what was tried, by tuned hyperparameter.
        vague: assume nothing.
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
        deviations = np.full_like(deviations, VAGUE)
    return LinearLaw(variant.matrix(scales), means, deviations)


@dataclass(frozen=True, eq=False)
class LawProblem:
    """Scales and what was tuned there: what a law is fitted to besides what was found of the optima."""

    scales: Sequence[Axes]
    tuned: Sequence[str]
    centre: Array
    vague: bool

    @property
    def seen(self) -> SweptAxes:
        return SweptAxes.of(self.scales)

    def linear(self, variant: Variant) -> LinearLaw:
        return linear_law(variant, self.scales, self.tuned, self.centre, vague=self.vague)

    def power(self) -> Variant:
        return LAWS.get(POWER).variants(self.seen)[0]


def average_models(problem: LawProblem, found: Sequence[OptimaEstimate], laws: Sequence[str]) -> list[Component]:
    """All components that weigh something, heaviest first. Weights add up to 1.

    Raises:
        FitError: none of the laws applies to the axes that were swept.
    """
    seen = problem.seen
    first = 1 + len(seen.moving)
    forms = {name: LAWS.get(name).variants(seen) for name in laws}
    forms = {name: variants for name, variants in forms.items() if variants}
    if not forms:
        raise FitError(f"none of the laws {', '.join(laws)} applies to {', '.join(seen.moving)}; add power")
    if len(problem.scales) <= first and POWER in forms:
        forms = {POWER: forms[POWER]}  # nothing is held out that could tell them apart
    components = []
    for index, one in enumerate(found):
        logs = {}
        for name, variants in forms.items():
            share = NULL_WEIGHT if name == POWER else (1 - NULL_WEIGHT) / max(1, len(forms) - 1)
            for variant in variants:
                ahead = (
                    log_predictive_score(one.told, problem.linear(variant), first)
                    if len(problem.scales) > first
                    else 0.0
                )
                logs[variant] = np.log(share / len(variants)) + ahead
        top = max(logs.values())
        total = sum(np.exp(log - top) for log in logs.values())
        for variant, log in logs.items():
            components += _components(problem, one, index, variant, float(np.exp(log - top) / total / len(found)))
    return normalized(components)


def power_law_components(problem: LawProblem, found: Sequence[OptimaEstimate]) -> list[Component]:
    """The power law's components, which exponents are read off."""
    variant = problem.power()
    return normalized(
        [part for index, one in enumerate(found) for part in _components(problem, one, index, variant, 1 / len(found))]
    )


def _components(
    problem: LawProblem, found: OptimaEstimate, index: int, variant: Variant, weight: float
) -> list[Component]:
    if weight < LIGHT:
        return []
    law, grid = problem.linear(variant), scatters(found.told.tuned)
    solved = solve_each(found.told, law, grid)
    logs = np.array([one.evidence + log_prior(scatter) for one, scatter in zip(solved, grid, strict=True)])
    shares = np.exp(logs - logs.max())
    shares *= weight / shares.sum()
    return [
        Component(variant, law, index, float(share), np.array(scatter), one)
        for share, scatter, one in zip(shares, grid, solved, strict=True)
    ]


def normalized(components: Sequence[Component]) -> list[Component]:
    """Without what is light, heaviest first, weights adding up to 1."""
    kept = sorted((one for one in components if one.weight >= LIGHT), key=lambda one: -one.weight)
    total = sum(one.weight for one in kept)
    return [Component(one.variant, one.law, one.found, one.weight / total, one.scatter, one.solved) for one in kept]


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
        ends = np.round(np.cumsum([one.weight for one in components]) * draws).astype(int)
        counts = np.diff(ends, prepend=0)
        width = max(one.solved.covariance.shape[0] for one in components)
        return cls(components, list(counts), np.random.default_rng(seed).standard_normal((draws, width)))

    def mean(self, scales: Sequence[Axes]) -> Array:
        """log2 of the optimum at scales, (scales, tuned)."""
        answer: Array = sum((one.weight * one.mean(scales) for one in self.components), np.zeros(1))
        return answer

    def draws(self, scales: Sequence[Axes]) -> Array:
        """Draws of the law at scales, (draws, scales, tuned)."""
        parts, start = [], 0
        for one, count in zip(self.components, self.counts, strict=True):
            if count:
                parts.append(one.drawn(scales, self.normals[start : start + count]))
            start += count
        return np.concatenate(parts)

    def quantiles(self, scale: Axes, shares: Sequence[float]) -> Array:
        """Of the optimum of one more scale, which scatters about the law as the others do, exactly, (tuned, shares).

        Args:
            shares: below each quantile, between 0 and 1.
        """
        weights = np.array([one.weight for one in self.components])
        means = np.array([one.mean([scale])[0] for one in self.components])
        errors = np.array([one.error(scale) for one in self.components])
        return quantiles(weights, means, errors, shares)

    def shares(self) -> dict[str, float]:
        """Weight of each form of law."""
        found: dict[str, float] = {}
        for one in self.components:
            found[one.variant.law] = found.get(one.variant.law, 0.0) + one.weight
        return found

    def scatter(self) -> Array:
        """Scatter of scales about the law, octaves, by tuned hyperparameter: the mean over components."""
        answer: Array = sum((one.weight * one.scatter for one in self.components), np.zeros(1))
        return answer
