"""Bayesian model averaging over laws.

A form is weighted by how well it predicts larger scales from smaller ones. A prediction is the weighted mean over forms
of the response surface, forms of the law, curvatures along the axes and scatters about the law. Where the runs do not
distinguish them, their spread widens the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from hptransfer.analysis.laws.forms import LAWS, SweptAxes, Variant
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.statistics.linear_model import LinearLaw, Posterior, log_predictive_score, solve
from hptransfer.analysis.statistics.quantiles import quantiles
from hptransfer.analysis.tables.arrays import Array, Axes, Index, Mask
from hptransfer.core.errors import FitError

POWER = "power"
# The power law is the null model, with this prior weight: its curvature along each axis follows most bends. The other
# forms share the rest.
NULL_WEIGHT = 0.8
# A form with less weight is left out, and a point of a form's grid with less than the second share of the whole.
LEAST_WEIGHT, LEAST_POINT = 1e-3, 2e-5
# Prior deviation of the optimum in the middle of the tried values, octaves about that middle.
LEVEL_OCTAVES = 5.0
# Deviation of a coefficient with an uninformative prior.
VAGUE_DEVIATION = 100.0


@dataclass(frozen=True, eq=False)
class Component:
    """One form of the law, fitted to one estimate.

    Attributes:
        estimate: index of the estimate.
        weights: shares of the mixture, of every point of the posterior, (points,).
    """

    variant: Variant
    law: LinearLaw
    estimate: int
    weights: Array
    posterior: Posterior

    def means(self, scales: Sequence[Axes]) -> Array:
        """Return log2 of the optimum at scales, (points, scales, tuned)."""
        optima: Array = np.einsum("sc,pkc->psk", self.variant.matrix(scales), self.posterior.coefficients)
        return optima

    def covariance(self, scale: Axes) -> Array:
        """Return covariances of a new scale's optimum, octaves squared, (points, tuned, tuned).

        They include the law's error and the scatter of scales about the law.
        """
        row = self.law.block_features(self.variant.matrix([scale]))
        scatter = self.posterior.scatter[:, :, None] ** 2 * np.eye(len(row))
        covariance: Array = np.einsum("kc,pcd,jd->pkj", row, self.posterior.covariance, row) + scatter
        return covariance

    def errors(self, scale: Axes) -> Array:
        """Return standard errors of a new scale's optimum, octaves, (points, tuned)."""
        errors: Array = np.sqrt(np.diagonal(self.covariance(scale), axis1=1, axis2=2))
        return errors

    def draws(self, points: Index, scales: Sequence[Axes], normals: Array) -> Array:
        """Return draws of the law at scales, (draws, scales, tuned).

        Args:
            points: of the posterior, one for each draw.
            normals: standard normal numbers, (draws, tuned * coefficients or more).
        """
        used, which = np.unique(points, return_inverse=True)
        roots = np.linalg.cholesky(self.posterior.covariance[used])[which]
        deviations = np.einsum("dij,dj->di", roots, normals[:, : roots.shape[1]])
        coefficients = self.posterior.coefficients[points] + deviations.reshape(len(points), *self.law.means.shape)
        optima: Array = np.einsum("sc,dkc->dsk", self.variant.matrix(scales), coefficients)
        return optima

    def at(self, points: Index | Mask) -> Component:
        """Return the component at some points, by index or mask."""
        return replace(self, weights=self.weights[points], posterior=self.posterior.at(points))


@dataclass(frozen=True, eq=False)
class LawProblem:
    """Inputs of a law fit besides the optima: scales, tuned hyperparameters, priors.

    Attributes:
        tuned: names that select the priors; "" for an uninformative one.
        centre: log2 of the middle of the tried values, by tuned hyperparameter.
        vague: use uninformative priors for all coefficients, and exact forms without a curvature.
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
        bends = [index for index, term in enumerate(variant.terms) if term.bend]
        spreads, shares = priors.bend_spreads(len(bends))
        means, deviations = np.zeros((2, len(self.tuned), len(variant.terms)))
        for k, name in enumerate(self.tuned):
            for c, term in enumerate(variant.terms):
                if term.mean is not None and term.deviation is not None:
                    means[k, c], deviations[k, c] = term.mean, term.deviation
                elif term.bend and term.axis is not None:
                    deviations[k, c] = priors.bend_scale(name, term.axis)
                elif term.axis is not None:
                    means[k, c], deviations[k, c] = priors.slope(name, term.axis)
                else:
                    means[k, c], deviations[k, c] = self.centre[k], LEVEL_OCTAVES
        if self.vague:
            deviations = np.full_like(deviations, VAGUE_DEVIATION)
        of_spread = np.repeat(deviations[None], len(shares), axis=0)
        of_spread[:, :, bends] *= spreads[:, None]
        return LinearLaw(variant.matrix(self.scales), means, of_spread, shares)

    def variants(self, law: str) -> list[Variant]:
        """Return the variants of a form on the swept axes."""
        swept = self.swept
        variants = LAWS.get(law).variants(swept)
        return variants if self.vague else [variant.bent(swept) for variant in variants]

    def power(self) -> Variant:
        """Return the power law, the null model."""
        return self.variants(POWER)[0]


def average_models(problem: LawProblem, estimates: Sequence[OptimaEstimate], laws: Sequence[str]) -> list[Component]:
    """Return all components with a considerable weight, heaviest first.

    Their weights add up to 1.

    Raises:
        FitError: none of the laws applies to the axes that were swept.
    """
    moving = problem.swept.moving
    first = 1 + len(moving)
    forms = {name: problem.variants(name) for name in laws}
    forms = {name: variants for name, variants in forms.items() if variants}
    if not forms:
        raise FitError(f"none of the laws {', '.join(laws)} applies to {', '.join(moving)}; add power")
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
            weight = float(np.exp(log - top) / total)
            if weight >= LEAST_WEIGHT:
                components.append(_component(problem, estimate, index, variant, weight / len(estimates)))
    return normalized(components)


def power_law_components(problem: LawProblem, estimates: Sequence[OptimaEstimate]) -> list[Component]:
    """Return the power law's components, which exponents are computed from."""
    variant, weight = problem.power(), 1 / len(estimates)
    return normalized(
        [_component(problem, estimate, index, variant, weight) for index, estimate in enumerate(estimates)]
    )


def _component(problem: LawProblem, estimate: OptimaEstimate, index: int, variant: Variant, weight: float) -> Component:
    law = problem.linear(variant)
    posterior = solve(estimate.likelihood, law)
    component = Component(variant, law, index, weight * posterior.weights, posterior)
    return component.at(component.weights >= LEAST_POINT)


def normalized(components: Sequence[Component]) -> list[Component]:
    """Return the components, heaviest first, with weights that add up to 1."""
    total = sum(part.weights.sum() for part in components)
    kept = sorted((part for part in components if len(part.weights)), key=lambda part: -part.weights.sum())
    return [replace(part, weights=part.weights / total) for part in kept]


@dataclass(frozen=True, eq=False)
class ModelAverage:
    """Components with a number of draws from each of their points.

    Attributes:
        counts: draws from each point of each component, in proportion to its weight.
        normals: standard normal numbers of each draw.
    """

    components: Sequence[Component]
    counts: Sequence[Index]
    normals: Array

    @classmethod
    def of(cls, components: Sequence[Component], draws: int, seed: int) -> ModelAverage:
        """Return the average of components whose weights add up to 1."""
        ends = np.round(np.cumsum(np.concatenate([part.weights for part in components])) * draws).astype(int)
        counts = np.split(np.diff(ends, prepend=0), np.cumsum([len(part.weights) for part in components])[:-1])
        width = max(part.posterior.covariance.shape[1] for part in components)
        return cls(components, counts, np.random.default_rng(seed).standard_normal((draws, width)))

    def mean(self, scales: Sequence[Axes]) -> Array:
        """Return log2 of the optimum at scales, (scales, tuned)."""
        means = (np.tensordot(part.weights, part.means(scales), 1) for part in self.components)
        mean: Array = sum(means, np.zeros(1))
        return mean

    def draws(self, scales: Sequence[Axes]) -> Array:
        """Return draws of the law at scales, (draws, scales, tuned)."""
        parts, start = [], 0
        for part, counts in zip(self.components, self.counts, strict=True):
            points = np.repeat(np.arange(len(counts)), counts)
            parts.append(part.draws(points, scales, self.normals[start : start + len(points)]))
            start += len(points)
        return np.concatenate(parts)

    def quantiles(self, scale: Axes, shares: Sequence[float]) -> Array:
        """Return exact quantiles of a new scale's optimum, (tuned, shares).

        The new scale scatters about the law as the others do.

        Args:
            shares: probabilities below each quantile, between 0 and 1.
        """
        weights = np.concatenate([part.weights for part in self.components])
        means = np.concatenate([part.means([scale])[:, 0] for part in self.components])
        errors = np.concatenate([part.errors(scale) for part in self.components])
        return quantiles(weights, means, errors, shares)

    def new_scale_draws(self, scale: Axes, count: int) -> Array:
        """Return draws of a new scale's optimum, its scatter included, (count, tuned).

        The draws are a fixed low-discrepancy set, so that answers do not depend on a seed.
        """
        weights = np.concatenate([part.weights for part in self.components])
        means = np.concatenate([part.means([scale])[:, 0] for part in self.components])
        roots = np.linalg.cholesky(np.concatenate([part.covariance(scale) for part in self.components]))
        uniform = qmc.Sobol(1 + means.shape[1], seed=0).random(count)
        points = np.searchsorted(np.cumsum(weights), uniform[:, 0] * weights.sum()).clip(max=len(weights) - 1)
        normals = ndtri(uniform[:, 1:].clip(1e-9, 1 - 1e-9))
        optima: Array = means[points] + np.einsum("dkj,dj->dk", roots[points], normals)
        return optima

    def heaviest(self, count: int) -> list[Component]:
        """Return the heaviest points as components of one point each.

        Their weights add up to 1.
        """
        points = [(part, point) for part in self.components for point in range(len(part.weights))]
        points.sort(key=lambda pair: -pair[0].weights[pair[1]])
        return normalized([part.at(np.array([point])) for part, point in points[:count]])

    def shares(self) -> dict[str, float]:
        """Return the weight of each form of law."""
        weights: dict[str, float] = {}
        for part in self.components:
            weights[part.variant.law] = weights.get(part.variant.law, 0.0) + float(part.weights.sum())
        return weights

    def scatter(self) -> Array:
        """Return the mean scatter of scales about the law, octaves, (tuned,)."""
        mean: Array = sum((part.weights @ part.posterior.scatter for part in self.components), np.zeros(1))
        return mean
