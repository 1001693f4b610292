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
        page: name of the sweep whose page shows the comparison.
        name: name of this sweep.
    """

    page: str
    name: str
    analysis: Findings


@dataclass(frozen=True, kw_only=True)
class ComparedExponent:
    """Exponent along an axis in two sweeps."""

    tuned: str
    axis: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class ComparedLoss:
    """Losses at the optima of two sweeps at one scale.

    Attributes:
        difference: second loss minus first loss.
        first_untransferred, second_untransferred: cost of reusing the optimum of each sweep's smallest scale.
    """

    name: str
    first: str
    second: str
    difference: str
    first_untransferred: str
    second_untransferred: str


@dataclass(frozen=True)
class SweepComparison:
    """Tables of two sweeps: by hyperparameter and axis, and by scale."""

    exponents: Sequence[ComparedExponent]
    losses: Sequence[ComparedLoss]


def compare_sweeps(first: Findings, second: Findings) -> SweepComparison:
    """Return the page's tables of two sweeps.

    The losses are at all common scales, and at the target if both sweeps predict for the same one.

    Raises:
        FitError: the sweeps have different axes or tuned hyperparameters.
    """
    first_fit, second_fit = first.fit, second.fit
    if first_fit.columns.scales != second_fit.columns.scales or first_fit.tuned != second_fit.tuned:
        raise FitError(
            f"the sweeps cannot be compared: {', '.join(first_fit.columns.scales)} and {', '.join(first_fit.tuned)} "
            f"here, {', '.join(second_fit.columns.scales)} and {', '.join(second_fit.tuned)} there"
        )
    objective = first_fit.columns.objective
    if objective.goal != second_fit.columns.objective.goal:
        raise FitError(f"the sweeps cannot be compared: only one of them is to {objective.goal} its metric")
    exponents = [
        ComparedExponent(
            tuned=name,
            axis=axis,
            first=exponent.sentence(name, axis),
            second=second_fit.exponents[name][axis].sentence(name, axis),
        )
        for name in first_fit.tuned
        for axis, exponent in first_fit.exponents[name].items()
        if axis in second_fit.exponents[name]
    ]
    second_optima = {Scale(optimum.axes).key: optimum for optimum in second_fit.optima}
    losses = []
    for optimum in first_fit.optima:
        second_optimum = second_optima.get(Scale(optimum.axes).key)
        if second_optimum is not None and np.isfinite([optimum.loss, second_optimum.loss]).all():
            costs = [
                fit.untransferred_cost(of_scale).text(4)
                for fit, of_scale in ((first_fit, optimum), (second_fit, second_optimum))
            ]
            name = first_fit.runs.format_scale(optimum.axes)
            shown = objective.shown(optimum.loss), objective.shown(second_optimum.loss)
            losses.append(_compared_loss(name, *shown, costs))
    first_target, second_target = first.predictions.iloc[0], second.predictions.iloc[0]
    if all(first_target[axis] == second_target[axis] for axis in first_fit.columns.scales):
        costs = [first.ignored_loss.text(4), second.ignored_loss.text(4)]
        predicted = float(first_target["loss"]), float(second_target["loss"])
        losses.append(_compared_loss("target, predicted", *predicted, costs))
    return SweepComparison(exponents, losses)


def _compared_loss(name: str, first: float, second: float, costs: Sequence[str]) -> ComparedLoss:
    return ComparedLoss(
        name=name,
        first=short(first),
        second=short(second),
        difference=f"{second - first:+.4f}",
        first_untransferred=costs[0],
        second_untransferred=costs[1],
    )
