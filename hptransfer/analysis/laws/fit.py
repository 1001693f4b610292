"""The fit: where the optimum of every scale is, the law it moves by, and draws of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hptransfer.analysis.laws import sufficiency as enough
from hptransfer.analysis.laws.exponents import INTERVAL, Exponent, exponents
from hptransfer.analysis.laws.forms import SweptAxes, default_laws
from hptransfer.analysis.laws.loss_law import LossLaw, fit_loss_law
from hptransfer.analysis.laws.model_averaging import LawProblem, ModelAverage, average_models, power_law_components
from hptransfer.analysis.optima.estimators import ESTIMATORS, OptimaEstimate
from hptransfer.analysis.optima.scale_optima import Optimum, find_optima
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.tables.arrays import Array, Axes, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.core.errors import FitError

DRAWS = 1000
ESTIMATOR = "surface"


@dataclass(frozen=True, eq=False)
class Fit:
    """Everything that was fitted.

    Attributes:
        estimator: whose optima the law goes through.
        optima: of every scale, cheapest first.
        found: what each form of the estimator found; `shapes`, what each form of the surface did.
        mixture: of laws, that predicts; `power`, of power laws alone, that exponents are read off.
        noise: standard deviation of a run's loss at the optimum, in nats.
    """

    runs: Runs
    estimator: str
    optima: Sequence[Optimum]
    found: Sequence[OptimaEstimate]
    shapes: Sequence[OptimaEstimate]
    problem: LawProblem
    laws: Sequence[str]
    mixture: ModelAverage
    power: ModelAverage
    loss_law: LossLaw
    noise: float
    warnings: Sequence[str]

    @property
    def columns(self) -> Columns:
        return self.runs.columns

    @property
    def tuned(self) -> tuple[str, ...]:
        return self.columns.tuned

    @property
    def seen(self) -> SweptAxes:
        return self.problem.seen

    @property
    def expected(self) -> list[str]:
        """What was expected of exponents before any run, where published studies say something."""
        if self.problem.vague:
            return []
        pairs = [(name, axis) for name in self.columns.known for axis in self.seen.moving]
        known_pairs = [(pair, priors.slope(*pair)) for pair in pairs if priors.slope(*pair) != priors.OTHER_SLOPE]
        return [f"{name} along {axis} {mean:+g} \u00b1 {sd:g}" for (name, axis), (mean, sd) in known_pairs]

    @property
    def smallest(self) -> Optimum:
        """The cheapest scale whose optimum is bracketed; the cheapest one if none is."""
        return next((one for one in self.optima if one.bracketed), self.optima[0])

    @cached_property
    def exponents(self) -> dict[str, dict[str, Exponent]]:
        """By tuned hyperparameter and axis."""
        return exponents(self.power, self.seen, self.tuned)

    def check(self, scale: Axes) -> None:
        """
        Raises:
            FitError: the scale differs on an axis of which only one value was seen.
        """
        for axis, values in self.seen.values.items():
            if len(values) == 1 and scale[axis] != values[0]:
                raise FitError(
                    f"no exponent for {axis}: only {axis}={values[0]:g} was swept, the target has {scale[axis]:g}; "
                    f"sweep at least two values of {axis}, or set the target's to {values[0]:g}"
                )

    def predict(self, scale: Axes) -> Array:
        """log2 of the optimum at a scale with its 90% interval, (tuned, 3): value, low, high.

        The interval holds the uncertainty of the optima, of the law and of its form, and the scatter of single
        scales about it.
        """
        self.check(scale)
        value = self.mixture.mean([scale])[0]
        low, high = self.mixture.quantiles(scale, [percent / 100 for percent in INTERVAL]).T
        found = np.stack([value, np.minimum(low, value), np.maximum(high, value)], axis=1)
        bounded: Array = np.minimum(found, self.columns.upper[:, None])
        return bounded

    def predict_loss(self, scale: Axes) -> tuple[float, float, float]:
        """Loss at the optimum of a scale with its 90% interval, nats."""
        self.check(scale)
        return self.loss_law.at(scale)

    def extrapolation_octaves(self, scale: Axes) -> float:
        """Octaves beyond the largest scale seen, the largest over the axes; 0 inside the seen range."""
        return max(0.0, *(float(np.log2(scale[axis] / values[-1])) for axis, values in self.seen.values.items()))

    def octaves_below(self, scale: Axes) -> float:
        """Octaves below the smallest scale seen, the most over the axes; 0 inside the seen range."""
        return max(0.0, *(float(np.log2(values[0] / scale[axis])) for axis, values in self.seen.values.items()))

    def excess_loss(self, scale: Axes, away: Array, loss: float) -> Array:
        """Nats lost at a scale by training so many octaves away from its optimum, by the bowl, (places,).

        Args:
            away: octaves, (places, tuned), or (tuned,) for one.
            loss: nats at the optimum.
        """
        away = np.atleast_2d(away)
        octaves = self.runs.octaves([scale])
        shapes = [shape.surface for shape in self.shapes if shape.surface]
        excess = [shape.shape.excess(away, np.tile(octaves, (len(away), 1))) for shape in shapes]
        found: Array = loss * np.expm1(np.mean(excess, axis=0))
        return found

    def untransferred_cost(self, one: Optimum) -> float:
        """Nats that a scale loses with the smallest scale's optimum."""
        return float(self.excess_loss(one.axes, self.smallest.x - one.x, one.loss)[0])


def fit_table(
    table: pd.DataFrame,
    columns: Columns,
    *,
    estimator: str = ESTIMATOR,
    laws: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fits a checked table (see records.check_table).

    Args:
        estimator: a member of analysis.estimators.
        laws: members of analysis.laws.forms that are weighed against each other; empty: all default ones.

    Raises:
        FitError: too few scales for the axes that were swept, or no optimum inside what was tried.
    """
    runs = Runs.of(table, columns)
    enough.check_runs(runs)
    chosen = ESTIMATORS.get(estimator)
    centre = (runs.x.min(axis=0) + runs.x.max(axis=0)) / 2
    problem = LawProblem(runs.scales, columns.known, centre, chosen.published)
    guide = LawProblem(runs.scales, columns.known, centre, vague=False)
    shapes = ESTIMATORS.get(ESTIMATOR).find(runs, guide.linear(guide.power()))
    found = shapes if estimator == ESTIMATOR else chosen.find(runs, problem.linear(problem.power()))
    optima = find_optima(runs, found, shapes)
    power = ModelAverage.of(power_law_components(problem, found), draws, seed)
    if chosen.published:
        laws = ("power",)
        enough.check_alone(optima, problem.seen)
        doubts = []
    else:
        laws = laws or default_laws()
        doubts = enough.check_together(runs, optima, shapes, power, problem.seen)
        doubts += enough.warn_of_assumed_exponents(power, problem, columns)
    mixture = ModelAverage.of(average_models(problem, found, laws), draws, seed)
    intercepts = np.array([np.log(one.loss) for one in optima])
    return Fit(
        runs=runs,
        estimator=estimator,
        optima=optima,
        found=found,
        shapes=shapes,
        problem=problem,
        laws=laws,
        mixture=mixture,
        power=power,
        loss_law=fit_loss_law(runs.scales, intercepts),
        noise=float(np.median([one.loss for one in optima]) * np.mean([one.noise for one in shapes])),
        warnings=[*doubts, *enough.warn_of_unbracketed_scales(optima, problem, columns)],
    )
