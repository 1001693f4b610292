"""Checks that the runs suffice for a fit: errors and warnings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.laws.exponents import exponents
from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.laws.model_averaging import LEVEL_OCTAVES, LawProblem, ModelAverage
from hptransfer.analysis.laws.repeats import FEWEST_VALUES, repeat_noise, spread_along
from hptransfer.analysis.laws.runs_to_add import RunPlanner, TooFewRunsError
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.optima.scale_optima import BOUNDED, BRACKETED, EDGE_HIGH, EDGE_LOW, TOO_FEW, Optimum
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.tables.arrays import Mask, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.scale_names import format_scale
from hptransfer.core.errors import FitError
from hptransfer.core.records import short

# Scales that a message names.
SCALES_IN_MESSAGE = 4
# An optimum with a larger error, half of the prior deviation, counts as not placed by the runs.
UNPLACED_OCTAVES = LEVEL_OCTAVES / 2
# Standard deviations of noise by which a run must be worse than the optimum.
NOISE_DEVIATIONS = 1.0
# Losses along a hyperparameter with a smaller standard deviation than this many of noise differ by little more than it.
NOISE_DEVIATIONS_ALONG = 2.0
# Standard deviation of a normal variable over the median of its absolute value.
DEVIATION_OF_MEDIAN = 1.48
# Share of outliers above which a table holds several experiments.
MOST_OUTLIERS = 1 / 3
# An exponent whose standard error is at least this share of the prior deviation comes mostly from the prior.
ASSUMED_SHARE = 0.8


def check_runs(runs: Runs) -> None:
    """Raise FitError if there are too few scales or tuned values."""
    swept = SweptAxes.of(runs.scales)
    planner = RunPlanner(runs)
    usable = [index for index in range(runs.num_scales) if planner.is_usable(index)]
    needed = 1 + len(swept.moving)
    if not swept.moving:
        raise TooFewRunsError(
            f"all runs are at one scale ({format_scale(runs.scales[0])}); a law needs at least two scales: "
            "1 more needed",
            runs.columns,
            planner.new_scales(1),
        )
    if len(usable) < needed:
        without = [runs.format_scale(runs.scales[index]) for index in range(runs.num_scales) if index not in usable]
        counted = "1 scale has" if len(usable) == 1 else f"{len(usable)} scales have"
        missing = needed - len(usable)
        again = planner.diverged_scales(missing)
        raise TooFewRunsError(
            f"{counted} a run that did not diverge, a law over {', '.join(swept.moving)} needs {needed}; "
            f"{missing} more needed" + (f"; all diverged: {_first_of(without)}" if without else ""),
            runs.columns,
            [*again, *planner.new_scales(missing - len(again))],
        )
    for k, name in enumerate(runs.columns.tuned):
        if (tried := len(np.unique(runs.x[:, k]))) < FEWEST_VALUES:
            raise TooFewRunsError(
                f"{name} was tried at {tried} value{'s' * (tried > 1)}, at least {FEWEST_VALUES} place an optimum; "
                f"run more{_or_leave_out(runs)}",
                runs.columns,
                planner.further_values(k, needed),
            )


def check_outliers(runs: Runs) -> None:
    """Raise FitError if many runs are outliers.

    Runs of seeds that broke as a whole do not count.
    """
    sound = np.isfinite(runs.loss)
    of_seed, of_scale = (np.bincount(group, sound.astype(float)) > 0 for group in (runs.intercept, runs.scale))
    judged = of_seed[runs.intercept] | ~of_scale[runs.scale]
    outliers, finite = int((judged & runs.outlier).sum()), int((judged & (sound | runs.outlier)).sum())
    if outliers > MOST_OUTLIERS * finite:
        rows = [str(runs.rows[index]) for index in map(int, np.flatnonzero(runs.outlier))]
        apart = f"{outliers} of {finite} losses lie far from any response surface through the others"
        several = "are several experiments in one table? Analyze each one separately"
        raise TooFewRunsError(
            f"{apart} (row {_first_of(rows)}); {several}, or repeat some of these runs: those that a repeat does not "
            "confirm can be left out",
            runs.columns,
            RunPlanner(runs).repeats(np.flatnonzero(runs.outlier)),
            together=f"{apart}; {several}",
        )


def check_placed_scales(runs: Runs, optima: Sequence[Optimum], swept: SweptAxes) -> None:
    """Raise FitError if too few scales have an optimum of their own."""
    placed = [optimum for optimum in optima if np.isfinite(optimum.se).all()]
    needed = 1 + len(swept.moving)
    if len(placed) < needed:
        counted = "1 scale has" if len(placed) == 1 else f"{len(placed)} scales have"
        unplaced = [index for index, optimum in enumerate(optima) if optimum not in placed]
        planner = RunPlanner(runs)
        lacking = [
            (index, [k for k, status in enumerate(optima[index].status) if status != BRACKETED])
            for index in unplaced
            if planner.is_usable(index)
        ]
        tuned = range(len(runs.columns.tuned))
        raise TooFewRunsError(
            f"{counted} runs that place an optimum, a law over {', '.join(swept.moving)} needs {needed}; "
            f"{needed - len(placed)} more needed: try values on both sides of the best of "
            f"{_unplaced_scales([optima[index] for index in unplaced])}",
            runs.columns,
            planner.at_scales([(index, ks or list(tuned)) for index, ks in lacking[: needed - len(placed)]]),
            together="the runs together place too few optima",
        )


def check_tried_values(
    runs: Runs, optima: Sequence[Optimum], shapes: Sequence[OptimaEstimate], power: ModelAverage, swept: SweptAxes
) -> list[str]:
    """Return warnings of optima that lie beyond all tried values.

    Raises:
        FitError: all runs together place no optimum of any hyperparameter, so the answer would be the prior.
    """
    middle = {axis: float(np.sqrt(values[0] * values[-1])) for axis, values in swept.values.items()}
    error = power.draws([middle])[:, 0].std(axis=0)
    surfaces = [estimate.surface for estimate in shapes if estimate.surface]
    inside = np.mean([_worse_on_both_sides(runs, surface) for surface in surfaces], axis=0) > 0.5
    nowhere = (error > UNPLACED_OCTAVES) | ~inside.any()
    if nowhere.all():
        raise _no_optimum(runs, optima, 0, float(error[0]), surfaces)
    notes = [
        f"the runs do not place the optimum of {name}: its value comes mostly from its prior, and the others do not "
        "depend on it"
        for name in np.array(runs.columns.tuned)[nowhere]
    ]
    return notes + [
        f"the optimum of {name} lies beyond all tried values: extrapolated with the fitted response surface"
        for name in np.array(runs.columns.tuned)[~inside & ~nowhere]
    ]


def _no_optimum(
    runs: Runs, optima: Sequence[Optimum], k: int, error: float, surfaces: Sequence[ResponseSurface]
) -> FitError:
    """Return the error of runs that do not place an optimum.

    Args:
        error: standard deviation of the optimum in the middle of the scales, in octaves.
    """
    name, planner = runs.columns.tuned[k], RunPlanner(runs)
    needed = 1 + len(SweptAxes.of(runs.scales).moving)
    together = f"the runs together show no optimum of {name}"
    if (equal := _equal_losses(runs)) is not None:
        return TooFewRunsError(
            f"all losses of a scale are equal ({short(equal)} at {runs.format_scale(runs.scales[0])}), so that no "
            f"value of {name} is better than another; name another column as the loss if this is not it, or try values "
            "farther apart",
            runs.columns,
            planner.farther_apart(k, needed),
        )
    if not _has_inner_best(runs, k):
        return TooFewRunsError(
            f"no optimum of {name} lies inside the tried values; try values on both sides of the best of "
            f"{_unplaced_scales(optima)}",
            runs.columns,
            planner.both_sides(k, needed),
            together=together,
        )
    noise = repeat_noise(runs)
    known_by = "between repeats" if noise is not None else "about the fitted response surface"
    spread, response = spread_along(runs, k), runs.response
    noise = float(np.mean(list(map(_scatter, surfaces)))) if noise is None else noise
    if spread is not None and spread < NOISE_DEVIATIONS_ALONG * noise:
        return TooFewRunsError(
            f"the losses show no optimum of {name}: along it they differ by little more than noise (standard "
            f"deviations of the {response.name}: {response.size(spread):.2g} along it, {response.size(noise):.2g} "
            f"{known_by}); try values farther apart, or repeat them with other seeds{_or_leave_out(runs)}",
            runs.columns,
            planner.farther_apart(k, needed),
            together=together,
        )
    surface_noise = float(np.mean([surface.noise for surface in surfaces]))
    reason = (
        f"the runs do not place the optimum of {name}: its error is {error:.2f} octaves in the middle of the scales, "
        f"and an answer needs at most {UNPLACED_OCTAVES:g}"
        if error > UNPLACED_OCTAVES
        else f"the fitted response surface has no optimum of {name} inside the tried values: on one side of it no run "
        f"is worse by more than the scatter about the surface ({response.size(surface_noise):.2g} in {response.name})"
    )
    unplaced = [optimum for optimum in optima if optimum.status[k] != BRACKETED]
    return TooFewRunsError(
        f"{reason}; try values on both sides of the best of {_unplaced_scales(unplaced or optima)}",
        runs.columns,
        planner.both_sides(k, needed),
        together=together,
    )


def _scatter(surface: ResponseSurface) -> float:
    """Return the scatter of responses about a response surface.

    A few runs that went wrong do not increase it.
    """
    return min(surface.noise, DEVIATION_OF_MEDIAN * float(np.median(np.abs(surface.residuals))))


def _or_leave_out(runs: Runs) -> str:
    """Return the way out of a hyperparameter among others."""
    return ", or leave it out of --tune" if len(runs.columns.tuned) > 1 else ""


def _equal_losses(runs: Runs) -> float | None:
    """Return the first loss if losses of every scale are equal."""
    losses = [runs.loss[runs.of_scale(index) & np.isfinite(runs.loss)] for index in range(runs.num_scales)]
    usable = [loss for loss in losses if len(loss)]
    return float(usable[0][0]) if all(np.ptp(loss) == 0 for loss in usable) else None


def _has_inner_best(runs: Runs, k: int) -> bool:
    """Return True if a scale's best run lies between finite ones."""
    for index in range(runs.num_scales):
        finite = runs.of_scale(index) & np.isfinite(runs.loss)
        if finite.any():
            x, best = runs.x[finite, k], runs.x[finite, k][runs.loss[finite] == runs.loss[finite].min()]
            if ((best > x.min()) & (best < x.max())).any():
                return True
    return False


def _worse_on_both_sides(runs: Runs, surface: ResponseSurface) -> Mask:
    """Return a mask of hyperparameters with worse runs on both sides.

    They are worse by more than noise.
    """
    u, octaves = runs.x - surface.x[runs.scale], surface.octaves[runs.scale]
    tuned = u.shape[1]
    excess = np.stack([surface.shape.excess(u * np.eye(tuned)[k], octaves) for k in range(tuned)], axis=1)
    worse = ~np.isfinite(runs.loss)[:, None] | (excess > NOISE_DEVIATIONS * surface.noise)
    below, above = worse & (u < 0), worse & (u > 0)
    return np.array([below[:, k].any() and above[:, k].any() for k in range(tuned)])


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - SCALES_IN_MESSAGE
    return "; ".join(names[:SCALES_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def _unplaced_scales(optima: Sequence[Optimum]) -> str:
    scales = [optimum.axes for optimum in optima]
    named = [
        f"{format_scale(optimum.axes, scales)} ({', '.join(dict.fromkeys(optimum.status))})"
        for optimum in optima[:SCALES_IN_MESSAGE]
    ]
    return "; ".join(named) + (
        f" and {len(optima) - SCALES_IN_MESSAGE} more" if len(optima) > SCALES_IN_MESSAGE else ""
    )


def warn_of_assumed_exponents(power: ModelAverage, problem: LawProblem, columns: Columns) -> list[str]:
    """Return a warning of the exponents that come mostly from the prior."""
    fitted = exponents(power, problem.swept, columns.tuned)
    pairs = [
        (name, axis, *priors.slope(by, axis))
        for name, by in zip(columns.tuned, problem.tuned, strict=True)
        for axis in problem.swept.moving
    ]
    assumed = [
        f"{name} along {axis} ({mean:g} ± {deviation:g})"
        for name, axis, mean, deviation in pairs
        if fitted[name][axis].se > ASSUMED_SHARE * deviation
    ]
    if not assumed:
        return []
    return [f"the runs hardly measure an exponent, which comes mostly from its prior: {', '.join(assumed)}"]


def warn_of_unbracketed_scales(optima: Sequence[Optimum], problem: LawProblem, columns: Columns) -> list[str]:
    """Return warnings of optima that are not bracketed and of few scales."""
    notes = []
    for k, name in enumerate(columns.tuned):
        for status in (EDGE_LOW, EDGE_HIGH, BOUNDED, TOO_FEW):
            unbracketed = [optimum.axes for optimum in optima if optimum.status[k] == status]
            if unbracketed:
                unnamed = len(unbracketed) - SCALES_IN_MESSAGE
                more = f" and {unnamed} more" if unnamed > 0 else ""
                scales = [optimum.axes for optimum in optima]
                named = "; ".join(format_scale(axes, scales) for axes in unbracketed[:SCALES_IN_MESSAGE])
                notes.append(
                    f"no bracketed optimum of {name} ({status}) at {named}{more}: estimated "
                    "with the common response shape"
                )
    swept = problem.swept
    if len(optima) <= 1 + len(swept.moving):
        notes.append(
            "as many scales as a power law has parameters: the scatter about it is assumed, and no other "
            "form of law can be compared with it"
        )
    for axis, values in swept.values.items():
        if len(values) == 1:
            notes.append(f"only one value of {axis} was swept: its exponent is not measured")
    return notes
