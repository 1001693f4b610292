"""Comparison of two sweeps, such as muP and SP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.predict.findings import Findings
from hptransfer.core.errors import FitError
from hptransfer.core.records import Scale, short


@dataclass(frozen=True, eq=False)
class ComparedSweep:
    """Sweep that another one is compared with.

    Attributes:
        here: name of the sweep whose page shows the comparison; `name`, of this sweep.
    """

    here: str
    name: str
    analysis: Findings


@dataclass(frozen=True, kw_only=True)
class ComparedExponent:
    """Exponent along an axis in two sweeps."""

    tuned: str
    axis: str
    here: str
    there: str


@dataclass(frozen=True, kw_only=True)
class ComparedLoss:
    """Losses at the optima of two sweeps at one scale, nats.

    Attributes:
        difference: loss there minus loss here.
        untransferred_here, untransferred_there: cost of reusing the optimum of each sweep's smallest scale.
    """

    name: str
    here: str
    there: str
    difference: str
    untransferred_here: str
    untransferred_there: str


@dataclass(frozen=True)
class SweepComparison:
    """Tables of two sweeps: by hyperparameter and axis, and by scale."""

    exponents: Sequence[ComparedExponent]
    losses: Sequence[ComparedLoss]


def compare_sweeps(here: Findings, there: Findings) -> SweepComparison:
    """Return the page's tables of two sweeps.

    The losses are at all common scales, and at the target if both sweeps predict for the same one.

    Raises:
        FitError: the sweeps have different axes or tuned hyperparameters.
    """
    fit_here, fit_there = here.fit, there.fit
    if fit_here.columns.scales != fit_there.columns.scales or fit_here.tuned != fit_there.tuned:
        raise FitError(
            f"the sweeps cannot be compared: {', '.join(fit_here.columns.scales)} and {', '.join(fit_here.tuned)} "
            f"here, {', '.join(fit_there.columns.scales)} and {', '.join(fit_there.tuned)} there"
        )
    exponents = [
        ComparedExponent(
            tuned=name,
            axis=axis,
            here=exponent.sentence(name, axis),
            there=fit_there.exponents[name][axis].sentence(name, axis),
        )
        for name in fit_here.tuned
        for axis, exponent in fit_here.exponents[name].items()
        if axis in fit_there.exponents[name]
    ]
    optima_there = {Scale(optimum.axes).key: optimum for optimum in fit_there.optima}
    losses = []
    for optimum in fit_here.optima:
        optimum_there = optima_there.get(Scale(optimum.axes).key)
        if optimum_there is not None and np.isfinite([optimum.loss, optimum_there.loss]).all():
            costs = fit_here.untransferred_cost(optimum), fit_there.untransferred_cost(optimum_there)
            name = fit_here.runs.format_scale(optimum.axes)
            losses.append(_compared_loss(name, optimum.loss, optimum_there.loss, costs))
    target_here, target_there = here.predictions.iloc[0], there.predictions.iloc[0]
    if all(target_here[axis] == target_there[axis] for axis in fit_here.columns.scales):
        costs = here.untransferred_nats(), there.untransferred_nats()
        predicted = float(target_here["loss"]), float(target_there["loss"])
        losses.append(_compared_loss("target, predicted", *predicted, costs))
    return SweepComparison(exponents, losses)


def _compared_loss(name: str, here: float, there: float, costs: tuple[float, float]) -> ComparedLoss:
    return ComparedLoss(
        name=name,
        here=short(here),
        there=short(there),
        difference=f"{there - here:+.4f}",
        untransferred_here=f"{costs[0]:.4f}",
        untransferred_there=f"{costs[1]:.4f}",
    )
