"""Validation: scales predicted from the others, larger ones from smaller ones.

The rehearsal predicts larger scales from smaller ones as the target is predicted from all of them: the laws are weighed
anew on the smaller scales. Where it missed by more than its intervals say, the intervals of the fit are widened.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.laws.exponents import INTERVAL, NORMAL_95
from hptransfer.analysis.laws.fit import Fit, Widening
from hptransfer.analysis.laws.model_averaging import Component, LawProblem, ModelAverage, average_models
from hptransfer.analysis.optima.scale_optima import Optimum
from hptransfer.analysis.statistics.linear_model import solve
from hptransfer.analysis.tables.arrays import Array, Axes

# Points of the average that are refitted, heaviest first, and largest scales that are left out.
REFITTED = 12
HELD_OUT_SCALES = 40
# Upper limits of the numbers of starting sets and of scales predicted from each.
MOST_STARTING_SETS = 6
# Sets without a miss that are added to the rehearsal, and the least factor by which intervals are widened.
PRIOR_SETS, LEAST_FACTOR = 3, 1.1
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
        squares: by tuned hyperparameter, square of the error over that expected from the interval and the scale's own.
        regret_nats, regret_percent: loss from training with the prediction, by the response surface, in the unit of the
            loss and in percent of it (NaN where differences are fitted).
    """

    axes: Axes
    extrapolation_octaves: float
    error: Array
    low: Array
    high: Array
    covered: tuple[bool, ...]
    squares: Array
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


def rehearse(fit: Fit) -> list[list[HeldOut]]:
    """Predict larger scales from growing sets of the cheapest ones.

    Returns:
        Predictions from each set. They show how the regret grows with the octaves of extrapolation.
    """
    count, first = len(fit.optima), 1 + len(fit.swept.moving)
    sets = range(first, count, max(1, -(-(count - first) // MOST_STARTING_SETS)))
    predictions = []
    for smaller in sets:
        known = list(range(smaller))
        problem = replace(fit.problem, scales=[fit.runs.scales[index] for index in known])
        if any(len(problem.swept.values[axis]) == 1 for axis in fit.swept.moving):
            continue
        estimates = [replace(estimate, likelihood=estimate.likelihood.only(known)) for estimate in fit.estimates]
        mixture = ModelAverage.of(average_models(problem, estimates, fit.laws), 1, 0)
        larger = range(smaller, count, -(-(count - smaller) // MOST_STARTING_SETS))
        held_out = [
            _held_out(fit, fit.optima[index], mixture, problem) for index in larger if _judges(fit.optima[index])
        ]
        predictions.append([one for one in held_out if one.extrapolation_octaves > 0])
    return [one for one in predictions if one]


def widened(fit: Fit, sets: Sequence[Sequence[HeldOut]]) -> Fit:
    """Return the fit with its intervals widened by what its rehearsal missed.

    The squared errors, in units of what the intervals say, have a mean of 1 if the intervals are right. Sets of smaller
    scales count once each, and PRIOR_SETS sets without a miss are added.

    Args:
        sets: of `rehearse`.
    """
    if not sets:
        return fit
    squares = np.array([np.mean([one.squares for one in of_set], axis=0) for of_set in sets])
    factor = np.sqrt((PRIOR_SETS + squares.sum(axis=0)) / (PRIOR_SETS + len(squares)))
    factor = np.where(factor > LEAST_FACTOR, factor, 1.0)
    predicted = list(itertools.chain.from_iterable(sets))
    reasons = []
    for k in range(len(factor)):
        missed = sum(not one.covered[k] for one in predicted)
        reason = (
            f"predicted from smaller scales, {missed} of {len(predicted)} larger optima lay outside the 90% interval, "
            f"by errors {np.sqrt(np.mean([one.squares[k] for one in predicted])):.1f} times those expected"
        )
        reasons.append(reason if factor[k] > 1 else "")
    return replace(fit, widening=Widening(factor, reasons))


def regret_per_octave(held_out: Sequence[HeldOut]) -> float | None:
    """Return the regret per octave of extrapolation, percent of the loss.

    It is the slope of a line through the origin; None without any held-out scale, and where differences are fitted.
    """
    octaves = np.array([scale.extrapolation_octaves for scale in held_out])
    percents = np.array([scale.regret_percent for scale in held_out])
    if not len(octaves) or np.isnan(percents).any():
        return None
    return float(octaves @ percents / (octaves @ octaves))


def _predict_scale(fit: Fit, optimum: Optimum, known_scales: Sequence[int]) -> HeldOut | None:
    """Predict a scale from some of the others.

    None if the scale's own optimum is too uncertain, or if the known scales have a single value of a swept axis.
    """
    if not _judges(optimum):
        return None
    scales = [fit.runs.scales[index] for index in known_scales]
    problem = LawProblem(scales, fit.columns.known, fit.problem.centre, fit.problem.vague)
    if any(len(problem.swept.values[axis]) == 1 for axis in fit.swept.moving):
        return None
    mixture = ModelAverage.of([_refitted(fit, part, known_scales) for part in fit.mixture.heaviest(REFITTED)], 1, 0)
    return _held_out(fit, optimum, mixture, problem)


def _judges(optimum: Optimum) -> bool:
    """Return True if a scale's own optimum can judge a prediction."""
    return bool((optimum.se < JUDGE_OCTAVES).all())


def _held_out(fit: Fit, optimum: Optimum, mixture: ModelAverage, problem: LawProblem) -> HeldOut:
    """Compare a prediction with the scale's own optimum."""
    value = mixture.mean([optimum.axes])[0]
    low, high = mixture.quantiles(optimum.axes, [percent / 100 for percent in INTERVAL]).T
    error = value - optimum.x
    half_width = NORMAL_95 * optimum.se
    covered = (low - optimum.x - half_width <= 0) & (high - optimum.x + half_width >= 0)
    regret = float(fit.excess_loss(optimum.axes, error, optimum.loss)[0])
    reach = [float(np.log2(optimum.axes[axis] / values[-1])) for axis, values in problem.swept.values.items()]
    expected = ((high - low) / (2 * NORMAL_95)) ** 2 + optimum.se**2
    return HeldOut(
        axes=optimum.axes,
        extrapolation_octaves=max(0.0, *reach),
        error=error,
        low=low - optimum.x,
        high=high - optimum.x,
        covered=tuple(map(bool, covered)),
        squares=error**2 / expected,
        regret_nats=regret,
        regret_percent=fit.runs.response.percent(regret, optimum.loss),
    )


def _refitted(fit: Fit, point: Component, known_scales: Sequence[int]) -> Component:
    """Return a point of the average refitted to some scales.

    Its scatter and spread stay.
    """
    likelihood = fit.estimates[point.estimate].likelihood.only(known_scales)
    law = replace(point.law.only(known_scales), deviations=point.posterior.deviations, shares=np.ones(1))
    return replace(point, law=law, posterior=solve(likelihood, law, point.posterior.scatter))
