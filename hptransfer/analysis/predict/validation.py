"""Validation: scales predicted from the others, larger ones from smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.laws.exponents import INTERVAL, NORMAL_95
from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.laws.model_averaging import Component, LawProblem, ModelAverage, normalized
from hptransfer.analysis.optima.scale_optima import Optimum
from hptransfer.analysis.statistics.linear_model import solve
from hptransfer.analysis.tables.arrays import Array, Axes

# Components that are refitted, heaviest first, and largest scales that are left out.
REFITTED_COMPONENTS = 12
HELD_OUT_SCALES = 40
# Upper limits of the numbers of starting sets and of scales predicted from each.
MOST_STARTING_SETS = 12
# Standard error of a scale's own optimum, in octaves, up to which it can judge a prediction.
JUDGE_OCTAVES = 0.75


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A scale predicted without its own runs.

    Attributes:
        extrapolation_octaves: octaves beyond the largest scale of the fit; 0 inside.
        error: prediction minus the scale's own optimum, octaves, by tuned hyperparameter.
        low, high: the 90% interval of the prediction minus the scale's own optimum.
        covered: True if the interval, widened by the own optimum's error, contains zero, by tuned hyperparameter.
        regret_nats, regret_percent: loss from training with the prediction, by the response surface.
    """

    axes: Axes
    extrapolation_octaves: float
    error: Array
    low: Array
    high: Array
    covered: tuple[bool, ...]
    regret_nats: float
    regret_percent: float


def leave_one_out(fit: Fit) -> list[HeldOut]:
    """Predict every scale from all others, cheapest first.

    Of more than HELD_OUT_SCALES scales only the largest ones are predicted.
    """
    count = len(fit.optima)
    held_out = []
    for index in range(max(0, count - HELD_OUT_SCALES), count):
        rest = [other for other in range(count) if other != index]
        held = _predicted(fit, fit.optima[index], rest)
        if held is not None:
            held_out.append(held)
    return held_out


def larger_from_smaller(fit: Fit) -> list[HeldOut]:
    """Predict larger scales from growing sets of the cheapest ones.

    The result shows how the regret grows with the octaves of extrapolation.
    """
    count, first = len(fit.optima), 1 + len(fit.swept.moving)
    held_out = []
    for known in range(first, count, max(1, -(-(count - first) // MOST_STARTING_SETS))):
        for index in range(known, count, -(-(count - known) // MOST_STARTING_SETS)):
            held = _predicted(fit, fit.optima[index], list(range(known)))
            if held is not None and held.extrapolation_octaves > 0:
                held_out.append(held)
    return held_out


def regret_per_octave(held: Sequence[HeldOut]) -> float | None:
    """Return the regret per octave of extrapolation, percent of the loss.

    It is the slope of a line through the origin; None without any held-out scale.
    """
    octaves = np.array([scale.extrapolation_octaves for scale in held])
    if not len(octaves):
        return None
    return float(octaves @ [scale.regret_percent for scale in held] / (octaves @ octaves))


def _predicted(fit: Fit, own: Optimum, rest: Sequence[int]) -> HeldOut | None:
    """Predict a scale from the rest.

    None if the scale's own optimum is too uncertain, or if the rest has a single value of a swept axis.
    """
    if not (own.se < JUDGE_OCTAVES).all():
        return None
    scales = [fit.runs.scales[index] for index in rest]
    problem = LawProblem(scales, fit.columns.known, fit.problem.centre, fit.problem.vague)
    if any(len(problem.swept.values[axis]) == 1 for axis in fit.swept.moving):
        return None
    mixture = ModelAverage.of([_without(fit, part, rest) for part in _heaviest(fit)], len(fit.mixture.normals), 0)
    value = mixture.mean([own.axes])[0]
    low, high = mixture.quantiles(own.axes, [percent / 100 for percent in INTERVAL]).T
    error = value - own.x
    slack = NORMAL_95 * own.se
    regret = float(fit.excess_loss(own.axes, error, own.loss)[0])
    reach = [float(np.log2(own.axes[axis] / values[-1])) for axis, values in problem.swept.values.items()]
    return HeldOut(
        axes=own.axes,
        extrapolation_octaves=max(0.0, *reach),
        error=error,
        low=low - own.x,
        high=high - own.x,
        covered=tuple(bool(a - s <= 0 <= b + s) for a, b, s in zip(low - own.x, high - own.x, slack, strict=True)),
        regret_nats=regret,
        regret_percent=100 * regret / own.loss,
    )


def _heaviest(fit: Fit) -> list[Component]:
    return normalized(fit.mixture.components[:REFITTED_COMPONENTS])


def _without(fit: Fit, part: Component, rest: Sequence[int]) -> Component:
    """Return the component refitted to some scales at the same scatter."""
    likelihood, law = fit.estimates[part.estimate].likelihood.only(rest), part.law.only(rest)
    return Component(
        part.variant, law, part.estimate, part.weight, part.scatter, solve(likelihood, law, tuple(part.scatter))
    )
