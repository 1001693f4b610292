"""The fit: the scales' optima and the law of the optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hptransfer.analysis.laws import sufficiency
from hptransfer.analysis.laws.exponents import INTERVAL, Exponent, exponents
from hptransfer.analysis.laws.forms import SweptAxes, default_laws
from hptransfer.analysis.laws.loss_law import LossLaw, fit_loss_law
from hptransfer.analysis.laws.model_averaging import LawProblem, ModelAverage, average_models, power_law_components
from hptransfer.analysis.optima.divergence import DivergenceModel
from hptransfer.analysis.optima.estimators import ESTIMATORS, OptimaEstimate
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.optima.scale_optima import Optimum, find_optima
from hptransfer.analysis.optima.stray_runs import ExcludedRun, judge_runs
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.tables.arrays import Array, Axes, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.core.errors import FitError
from hptransfer.core.records import LOG_ESTIMATORS

NUM_DRAWS = 1000
ESTIMATOR = "surface"


@dataclass(frozen=True)
class ReuseCost:
    """Loss from training a scale with values that are not its own.

    Attributes:
        nats: loss above the scale's optimum in the unit of the loss, at most the largest that was measured; NaN if no
            run shows that optimum.
        capped: True if the response surface says more than that.
        diverges: True if the run diverges more likely than not.
    """

    nats: float
    capped: bool
    diverges: bool

    def text(self, digits: int) -> str:
        """Return the cost for people, or that the run diverges."""
        if self.diverges or math.isnan(self.nats):
            return "diverges" if self.diverges else "unknown"
        return f"{'over ' * self.capped}{self.nats:.{digits}f}"


@dataclass(frozen=True, eq=False)
class Widening:
    """Factors on the intervals' widths, by the table's own rehearsal.

    Attributes:
        factor: by tuned hyperparameter, 1 or more.
        reasons: by tuned hyperparameter; blank where the factor is 1.
    """

    factor: Array
    reasons: Sequence[str]

    @classmethod
    def none(cls, tuned: int) -> Widening:
        """Return the widening of a fit without a rehearsal."""
        return cls(np.ones(tuned), [""] * tuned)


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted quantities.

    Attributes:
        runs: all runs; those that were left out as stray have an infinite loss.
        estimator: name of the estimator of the optima that the law is fitted to.
        optima: of every scale, cheapest first.
        estimates: one for each form of the estimator; `shapes`, one for each form of the response surface.
        excluded: runs with a finite loss that were left out.
        divergence: probability that a run diverges; None if none did.
        mixture: average over laws, used for predictions.
        power: average over power laws alone, used for exponents.
        loss_law: the loss at the optimum against scale.
        noise: standard deviation of a run's loss at the optimum.
        widening: of all intervals (predict/validation.py).
    """

    runs: Runs
    estimator: str
    optima: Sequence[Optimum]
    estimates: Sequence[OptimaEstimate]
    shapes: Sequence[OptimaEstimate]
    excluded: Sequence[ExcludedRun]
    divergence: DivergenceModel | None
    problem: LawProblem
    laws: Sequence[str]
    mixture: ModelAverage
    power: ModelAverage
    loss_law: LossLaw
    noise: float
    warnings: Sequence[str]
    widening: Widening

    @property
    def columns(self) -> Columns:
        """Columns of the table by their role."""
        return self.runs.columns

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the tuned hyperparameters."""
        return self.columns.tuned

    @property
    def surfaces(self) -> list[ResponseSurface]:
        """The response surface in each of its forms."""
        return [shape.surface for shape in self.shapes if shape.surface]

    @property
    def swept(self) -> SweptAxes:
        """Swept values of every axis."""
        return self.problem.swept

    @property
    def published_priors(self) -> list[str]:
        """Priors of exponents that come from published studies, as text."""
        if self.problem.vague:
            return []
        pairs = [(name, axis) for name in self.columns.known for axis in self.swept.moving]
        published = [(pair, priors.slope(*pair)) for pair in pairs if priors.slope(*pair) != priors.OTHER_SLOPE]
        return [f"{name} along {axis} {mean:+g} \u00b1 {sd:g}" for (name, axis), (mean, sd) in published]

    @property
    def smallest(self) -> Optimum:
        """Optimum of the cheapest bracketed scale, else of the cheapest scale."""
        return next((optimum for optimum in self.optima if optimum.bracketed), self.optima[0])

    @cached_property
    def exponents(self) -> dict[str, dict[str, Exponent]]:
        """Exponents by tuned hyperparameter and axis."""
        return exponents(self.power, self.swept, self.tuned)

    def check(self, scale: Axes) -> None:
        """Raise FitError if the scale differs on an unswept axis."""
        for axis, values in self.swept.values.items():
            if len(values) == 1 and scale[axis] != values[0]:
                raise FitError(
                    f"no exponent for {axis}: only {axis}={values[0]:g} was swept, the target has {scale[axis]:g}; "
                    f"sweep at least two values of {axis}, or set the target's to {values[0]:g}"
                )

    def predict(self, scale: Axes) -> Array:
        """Return log2 of the optimum at a scale with its 90% interval.

        The interval covers noise, curvature, model choice and the scatter of single scales about the law. It is widened
        where the table's own rehearsal missed. It does not cover a break of the law beyond the proxies.

        Returns:
            (tuned, 3): mean, low, high.

        Raises:
            FitError: the scale differs on an axis of which only one value was swept.
        """
        self.check(scale)
        value = self.mixture.mean([scale])[0]
        low, high = self.mixture.quantiles(scale, [percent / 100 for percent in INTERVAL]).T
        low, high = np.minimum(low, value) - value, np.maximum(high, value) - value
        rows = value[:, None] + self.widening.factor[:, None] * np.stack([np.zeros_like(value), low, high], axis=1)
        bounded: Array = np.minimum(rows, self.columns.upper[:, None])
        return bounded

    def predict_loss(self, scale: Axes) -> tuple[float, float, float]:
        """Return the loss at a scale's optimum with its 90% interval.

        The loss is to be minimized.
        """
        self.check(scale)
        return self.loss_law.at(scale)

    def extrapolation_octaves(self, scale: Axes) -> float:
        """Return the octaves beyond the largest swept value, 0 inside the range.

        Of several axes the largest number counts.
        """
        return max(0.0, *(float(np.log2(scale[axis] / values[-1])) for axis, values in self.swept.values.items()))

    def octaves_below(self, scale: Axes) -> float:
        """Return the octaves below the smallest swept value, 0 inside the range.

        Of several axes the largest number counts.
        """
        return max(0.0, *(float(np.log2(values[0] / scale[axis])) for axis, values in self.swept.values.items()))

    def excess_loss(self, scale: Axes, away: Array, loss: float) -> Array:
        """Return the loss above the optimum by the response surface, (points,).

        Args:
            away: octaves from the scale's optimum, (points, tuned), or (tuned,) for one.
            loss: at the optimum.
        """
        away = np.atleast_2d(away)
        octaves = self.runs.octaves([scale])
        excess = [surface.shape.excess(away, np.tile(octaves, (len(away), 1))) for surface in self.surfaces]
        return self.runs.response.excess_loss(np.mean(excess, axis=0), loss)

    @cached_property
    def largest_excess(self) -> float:
        """Largest loss of a sound run above its scale's optimum."""
        excess = self.runs.loss - np.array([optimum.loss for optimum in self.optima])[self.runs.scale]
        return float(np.max(excess, initial=0.0, where=np.isfinite(excess)))

    def reuse_cost(self, scale: Axes, optimum: Array, reused: Array, loss: float) -> ReuseCost:
        """Return the cost of training a scale with reused values.

        It is never more than the runs bear out: the response surface counts up to the largest measured excess.

        Args:
            optimum, reused: log2 of the scale's optimum and of the values, (tuned,).
            loss: at the optimum.
        """
        by_surface = float(self.excess_loss(scale, reused - optimum, loss)[0])
        diverges = self.divergence is not None and self.divergence.probability(reused, scale).item() > 0.5
        return ReuseCost(min(by_surface, self.largest_excess), by_surface > self.largest_excess, diverges)

    def untransferred_cost(self, optimum: Optimum) -> ReuseCost:
        """Return a scale's cost of reusing the smallest scale's optimum."""
        return self.reuse_cost(optimum.axes, optimum.x, self.smallest.x, optimum.loss)


def fit_table(
    table: pd.DataFrame,
    columns: Columns,
    *,
    estimator: str = ESTIMATOR,
    laws: Sequence[str] = (),
    draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit a table that check_table has checked.

    Args:
        estimator: a member of analysis.optima.estimators.
        laws: members of analysis.laws.forms that are weighed against each other; empty: all default ones.

    Raises:
        FitError: too few scales for the axes that were swept, or no optimum inside what was tried.
    """
    runs = Runs.of(table, columns)
    if runs.response.unit is not None and estimator in LOG_ESTIMATORS:
        raise FitError(
            f"estimator {estimator} compares ratios or logarithms of losses above 0 that are minimized; "
            f"{columns.loss} has values at or below 0, or is maximized: take estimator surface, which fits differences"
        )
    sufficiency.check_runs(runs)
    method = ESTIMATORS.get(estimator)
    centre = (runs.x.min(axis=0) + runs.x.max(axis=0)) / 2
    problem = LawProblem(runs.scales, columns.known, centre, method.published)
    guide = LawProblem(runs.scales, columns.known, centre, vague=False)
    shapes = ESTIMATORS.get(ESTIMATOR).find(runs, guide.linear(guide.power()))
    judged = judge_runs(runs, [shape.surface for shape in shapes if shape.surface])
    runs = judged.runs
    sufficiency.check_outliers(runs)
    estimates = shapes if estimator == ESTIMATOR else method.find(runs, problem.linear(problem.power()))
    optima = find_optima(runs, estimates, shapes)
    power = ModelAverage.of(power_law_components(problem, estimates), draws, seed)
    if method.published:
        laws = ("power",)
        sufficiency.check_placed_scales(runs, optima, problem.swept)
        warnings = []
    else:
        laws = laws or default_laws()
        warnings = sufficiency.check_tried_values(runs, optima, shapes, power, problem.swept)
        warnings += sufficiency.warn_of_assumed_exponents(power, problem, columns)
    mixture = ModelAverage.of(average_models(problem, estimates, laws), draws, seed)
    intercepts, response = runs.response.of(np.array([optimum.loss for optimum in optima])), runs.response
    return Fit(
        runs=runs,
        estimator=estimator,
        optima=optima,
        estimates=estimates,
        shapes=shapes,
        excluded=judged.excluded,
        divergence=judged.divergence,
        problem=problem,
        laws=laws,
        mixture=mixture,
        power=power,
        loss_law=fit_loss_law(runs.scales, intercepts, response),
        noise=float(
            np.nanmedian([response.slope(optimum.loss) for optimum in optima])
            * np.mean([shape.noise for shape in shapes])
        ),
        warnings=[*warnings, *sufficiency.warn_of_unbracketed_scales(optima, problem, columns)],
        widening=Widening.none(len(columns.tuned)),
    )
