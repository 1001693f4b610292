"""Comparison of two sweeps, such as muP and SP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.analysis.predict.findings import Findings
from hptransfer.core.errors import FitError
from hptransfer.core.records import Scale, short


@dataclass(frozen=True, eq=False)
class ComparedSweep:
    """Sweep that another one is compared with.

    Attributes:
        here: name of the other sweep, whose page shows the comparison; `name`, of this sweep.
    """

    here: str
    name: str
    analysis: Findings


def compare_sweeps(one: Findings, other: Findings) -> dict[str, Any]:
    """Return the page's tables of two sweeps.

    Returns:
        `exponents`, one row per hyperparameter and axis; `losses`, one row per common scale and for the target: the
        loss at each sweep's optimum, their difference, and each sweep's cost of reusing its smallest scale's optimum.

    Raises:
        FitError: the sweeps have different axes or tuned hyperparameters.
    """
    a, b = one.fit, other.fit
    if a.columns.scales != b.columns.scales or a.tuned != b.tuned:
        raise FitError(
            f"the sweeps cannot be compared: {', '.join(a.columns.scales)} and {', '.join(a.tuned)} here, "
            f"{', '.join(b.columns.scales)} and {', '.join(b.tuned)} there"
        )
    exponents = [
        {
            "tuned": name,
            "axis": axis,
            "here": exponent.sentence(name, axis),
            "there": other_exponent.sentence(name, axis),
        }
        for name in a.tuned
        for axis, exponent in a.exponents[name].items()
        if (other_exponent := b.exponents[name].get(axis)) is not None
    ]
    by_key = {Scale(optimum.axes).key: optimum for optimum in b.optima}
    losses = []
    for optimum in a.optima:
        other_optimum = by_key.get(Scale(optimum.axes).key)
        if other_optimum is not None and np.isfinite([optimum.loss, other_optimum.loss]).all():
            costs = a.untransferred_cost(optimum), b.untransferred_cost(other_optimum)
            losses.append(_losses(a.runs.format_scale(optimum.axes), optimum.loss, other_optimum.loss, costs))
    row, other_row = one.predictions.iloc[0], other.predictions.iloc[0]
    if all(row[axis] == other_row[axis] for axis in a.columns.scales):
        costs = one.untransferred_nats(), other.untransferred_nats()
        losses.append(_losses("target, predicted", float(row["loss"]), float(other_row["loss"]), costs))
    return {"exponents": exponents, "losses": losses}


def _losses(name: str, here: float, there: float, costs: tuple[float, float]) -> dict[str, str]:
    return {
        "name": name,
        "here": short(here),
        "there": short(there),
        "given_away": f"{there - here:+.4f}",
        "untransferred_here": f"{costs[0]:.4f}",
        "untransferred_there": f"{costs[1]:.4f}",
    }
