"""Does it transfer? Every scale predicted from the others, and larger scales from smaller ones."""

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

# Components that scales are left out of, heaviest first, and the largest scales that are.
COMPONENTS = 12
SCALES = 40
# Of many scales so many are predicted, from so many beginnings.
STEPS = 12
# A scale whose own optimum is known no better cannot judge a prediction, octaves.
JUDGE_OCTAVES = 0.75


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One scale, predicted without its own runs.

    Attributes:
        extrapolation_octaves: octaves beyond the largest scale that the prediction knew; 0 inside.
        error: prediction minus the scale's own optimum, octaves, by tuned hyperparameter.
        low, high: the 90% interval of the prediction minus the scale's own optimum.
        covered: whether the interval, with the own optimum's error, holds zero.
        regret_nats, regret_percent: what training with the prediction would have lost, by the bowl.
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
    """Every scale, cheapest first, predicted from all others; of very many scales the largest ones."""
    count = len(fit.optima)
    found = []
    for place in range(max(0, count - SCALES), count):
        rest = [other for other in range(count) if other != place]
        held = _predicted(fit, fit.optima[place], rest)
        if held is not None:
            found.append(held)
    return found


def larger_from_smaller(fit: Fit) -> list[HeldOut]:
    """Larger scales predicted from the cheapest few, from a few more, and so on: how regret grows with distance."""
    count, first = len(fit.optima), 1 + len(fit.seen.moving)
    found = []
    for known in range(first, count, max(1, -(-(count - first) // STEPS))):
        for place in range(known, count, -(-(count - known) // STEPS)):
            held = _predicted(fit, fit.optima[place], list(range(known)))
            if held is not None and held.extrapolation_octaves > 0:
                found.append(held)
    return found


def regret_per_octave(held: Sequence[HeldOut]) -> float | None:
    """Percent of the loss lost per octave of extrapolation: a line through the origin; None without any."""
    octaves = np.array([one.extrapolation_octaves for one in held])
    if not len(octaves):
        return None
    return float(octaves @ [one.regret_percent for one in held] / (octaves @ octaves))


def _predicted(fit: Fit, one: Optimum, rest: Sequence[int]) -> HeldOut | None:
    """None if the scale's own optimum is not known well enough, or the others do not reach along some axis."""
    if not (one.se < JUDGE_OCTAVES).all():
        return None
    scales = [fit.runs.scales[place] for place in rest]
    problem = LawProblem(scales, fit.columns.known, fit.problem.centre, fit.problem.vague)
    if any(len(problem.seen.values[axis]) == 1 for axis in fit.seen.moving):
        return None
    mixture = ModelAverage.of([_without(fit, part, rest) for part in _heaviest(fit)], len(fit.mixture.normals), 0)
    value = mixture.mean([one.axes])[0]
    low, high = mixture.quantiles(one.axes, [percent / 100 for percent in INTERVAL]).T
    error = value - one.x
    slack = NORMAL_95 * one.se
    regret = float(fit.excess_loss(one.axes, error, one.loss)[0])
    reach = [float(np.log2(one.axes[axis] / values[-1])) for axis, values in problem.seen.values.items()]
    return HeldOut(
        axes=one.axes,
        extrapolation_octaves=max(0.0, *reach),
        error=error,
        low=low - one.x,
        high=high - one.x,
        covered=tuple(bool(a - s <= 0 <= b + s) for a, b, s in zip(low - one.x, high - one.x, slack, strict=True)),
        regret_nats=regret,
        regret_percent=100 * regret / one.loss,
    )


def _heaviest(fit: Fit) -> list[Component]:
    return normalized(fit.mixture.components[:COMPONENTS])


def _without(fit: Fit, part: Component, rest: Sequence[int]) -> Component:
    """The same form at the same scatter, fitted to some of the scales."""
    told, law = fit.found[part.found].told.only(rest), part.law.only(rest)
    return Component(part.variant, law, part.found, part.weight, part.scatter, solve(told, law, tuple(part.scatter)))
