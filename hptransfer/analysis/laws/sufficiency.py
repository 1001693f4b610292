"""Checks that the runs suffice for a fit: errors and warnings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.laws.exponents import exponents
from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.laws.model_averaging import LEVEL_OCTAVES, LawProblem, ModelAverage
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.optima.scale_optima import BOUNDED, EDGE_HIGH, EDGE_LOW, TOO_FEW, Optimum
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.tables.arrays import Mask, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.scale_names import format_scale
from hptransfer.core.errors import FitError

# Scales that a message names.
SCALES_IN_MESSAGE = 4
# Fewer values than this cannot bracket an optimum.
FEWEST_VALUES = 3
# An optimum with a larger error, half of the prior deviation, counts as not placed by the runs.
UNPLACED_OCTAVES = LEVEL_OCTAVES / 2
# Standard deviations of noise by which a run must be worse than the optimum.
NOISE_DEVIATIONS = 1.0
# An exponent whose standard error is at least this share of the prior deviation comes mostly from the prior.
ASSUMED_SHARE = 0.8


def check_runs(runs: Runs) -> None:
    """Raise FitError if there are too few scales or tuned values."""
    swept = SweptAxes.of(runs.scales)
    usable = [index for index in range(runs.num_scales) if np.isfinite(runs.loss[runs.of_scale(index)]).any()]
    needed = 1 + len(swept.moving)
    if not swept.moving:
        raise FitError(
            f"all runs are at one scale ({format_scale(runs.scales[0])}); a law needs at least two scales: "
            "1 more needed"
        )
    if len(usable) < needed:
        without = [runs.format_scale(runs.scales[index]) for index in range(runs.num_scales) if index not in usable]
        counted = "1 scale has" if len(usable) == 1 else f"{len(usable)} scales have"
        raise FitError(
            f"{counted} a run that did not diverge, a law over {', '.join(swept.moving)} needs {needed}; "
            f"{needed - len(usable)} more needed" + (f"; all diverged: {', '.join(without)}" if without else "")
        )
    for k, name in enumerate(runs.columns.tuned):
        if (tried := len(np.unique(runs.x[:, k]))) < FEWEST_VALUES:
            raise FitError(
                f"{name} was tried at {tried} value{'s' * (tried > 1)}, at least {FEWEST_VALUES} place an optimum; "
                "leave it out of --tune, or run more"
            )


def check_placed_scales(optima: Sequence[Optimum], swept: SweptAxes) -> None:
    """Raise FitError if too few scales have an optimum of their own."""
    placed = [optimum for optimum in optima if np.isfinite(optimum.se).all()]
    needed = 1 + len(swept.moving)
    if len(placed) < needed:
        counted = "1 scale has" if len(placed) == 1 else f"{len(placed)} scales have"
        unplaced = _unplaced_scales([optimum for optimum in optima if optimum not in placed])
        raise FitError(
            f"{counted} runs that place an optimum, a law over {', '.join(swept.moving)} needs {needed}; "
            f"{needed - len(placed)} more needed: try values on both sides of the best of {unplaced}"
        )


def check_tried_values(
    runs: Runs, optima: Sequence[Optimum], shapes: Sequence[OptimaEstimate], power: ModelAverage, swept: SweptAxes
) -> list[str]:
    """Return warnings of optima that lie beyond all tried values.

    Raises:
        FitError: all runs together place no optimum, so the answer would be the prior.
    """
    middle = {axis: float(np.sqrt(values[0] * values[-1])) for axis, values in swept.values.items()}
    error = power.draws([middle])[:, 0].std(axis=0)
    surfaces = [estimate.surface for estimate in shapes if estimate.surface]
    inside, shown = (
        np.mean([_worse_on_both_sides(runs, surface, noises) for surface in surfaces], axis=0) > 0.5
        for noises in (NOISE_DEVIATIONS, 0.0)
    )
    nowhere = (error > UNPLACED_OCTAVES) | ~inside.any()
    for k in np.flatnonzero(nowhere):
        if shown[k]:
            raise FitError(
                f"the losses show no optimum of {runs.columns.tuned[k]}: along it they differ by little more than "
                "noise; try values farther apart, or repeat them with other seeds"
            )
        raise FitError(
            f"no optimum of {runs.columns.tuned[k]} lies inside the tried values; "
            f"try values on both sides of the best of {_unplaced_scales(optima)}"
        )
    return [
        f"the optimum of {name} lies beyond all tried values: extrapolated with the fitted response surface"
        for name in np.array(runs.columns.tuned)[~inside]
    ]


def _worse_on_both_sides(runs: Runs, surface: ResponseSurface, noises: float) -> Mask:
    """Return a mask of hyperparameters with worse runs on both sides.

    Args:
        noises: by how many standard deviations of noise the runs are worse, at least.
    """
    u, octaves = runs.x - surface.x[runs.scale], surface.octaves[runs.scale]
    tuned = u.shape[1]
    excess = np.stack([surface.shape.excess(u * np.eye(tuned)[k], octaves) for k in range(tuned)], axis=1)
    worse = ~np.isfinite(runs.loss)[:, None] | (excess > noises * surface.noise)
    below, above = worse & (u < 0), worse & (u > 0)
    return np.array([below[:, k].any() and above[:, k].any() for k in range(tuned)])


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
