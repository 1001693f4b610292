"""Validation: scales predicted from the others, larger ones from smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        covered: by tuned hyperparameter, True if the interval contains zero. The interval is widened by the error of
            the scale's own optimum.
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
        others = [scale for scale in range(count) if scale != index]
        predicted = _predict_scale(fit, fit.optima[index], others)
        if predicted is not None:
            held_out.append(predicted)
    return held_out


def larger_from_smaller(fit: Fit) -> list[HeldOut]:
    """Predict larger scales from growing sets of the cheapest ones.

    The result shows how the regret grows with the octaves of extrapolation.
    """
    count, first = len(fit.optima), 1 + len(fit.swept.moving)
    held_out = []
    for smaller in range(first, count, max(1, -(-(count - first) // MOST_STARTING_SETS))):
        for index in range(smaller, count, -(-(count - smaller) // MOST_STARTING_SETS)):
            predicted = _predict_scale(fit, fit.optima[index], list(range(smaller)))
            if predicted is not None and predicted.extrapolation_octaves > 0:
                held_out.append(predicted)
    return held_out


def regret_per_octave(held_out: Sequence[HeldOut]) -> float | None:
    """Return the regret per octave of extrapolation, percent of the loss.

    It is the slope of a line through the origin; None without any held-out scale.
    """
    octaves = np.array([scale.extrapolation_octaves for scale in held_out])
    if not len(octaves):
        return None
    return float(octaves @ [scale.regret_percent for scale in held_out] / (octaves @ octaves))


def _predict_scale(fit: Fit, optimum: Optimum, known_scales: Sequence[int]) -> HeldOut | None:
    """Predict a scale from some of the others.

    None if the scale's own optimum is too uncertain, or if the known scales have a single value of a swept axis.
    """
    if not (optimum.se < JUDGE_OCTAVES).all():
        return None
    scales = [fit.runs.scales[index] for index in known_scales]
    problem = LawProblem(scales, fit.columns.known, fit.problem.centre, fit.problem.vague)
    if any(len(problem.swept.values[axis]) == 1 for axis in fit.swept.moving):
        return None
    components = [_refitted(fit, component, known_scales) for component in _heaviest(fit)]
    mixture = ModelAverage.of(components, len(fit.mixture.normals), 0)
    value = mixture.mean([optimum.axes])[0]
    low, high = mixture.quantiles(optimum.axes, [percent / 100 for percent in INTERVAL]).T
    error = value - optimum.x
    half_width = NORMAL_95 * optimum.se
    covered = (low - optimum.x - half_width <= 0) & (high - optimum.x + half_width >= 0)
    regret = float(fit.excess_loss(optimum.axes, error, optimum.loss)[0])
    reach = [float(np.log2(optimum.axes[axis] / values[-1])) for axis, values in problem.swept.values.items()]
    return HeldOut(
        axes=optimum.axes,
        extrapolation_octaves=max(0.0, *reach),
        error=error,
        low=low - optimum.x,
        high=high - optimum.x,
        covered=tuple(map(bool, covered)),
        regret_nats=regret,
        regret_percent=100 * regret / optimum.loss,
    )


def _heaviest(fit: Fit) -> list[Component]:
    return normalized(fit.mixture.components[:REFITTED_COMPONENTS])


def _refitted(fit: Fit, component: Component, known_scales: Sequence[int]) -> Component:
    """Return the component refitted to some scales at the same scatter."""
    likelihood = fit.estimates[component.estimate].likelihood.only(known_scales)
    law = component.law.only(known_scales)
    return replace(component, law=law, posterior=solve(likelihood, law, tuple(component.scatter)))
