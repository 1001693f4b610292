"""Two sweeps side by side: say muP and SP, each at its own optimum and at its smallest scale's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.analysis.predict.findings import Findings
from hptransfer.core.errors import FitError
from hptransfer.core.records import Scale, short


@dataclass(frozen=True, eq=False)
class ComparedSweep:
    """The sweep that one is compared with.

    Attributes:
        here: name of the one, `name` of this.
    """

    here: str
    name: str
    analysis: Findings


def compare_sweeps(one: Findings, other: Findings) -> dict[str, Any]:
    """What the page shows of two sweeps.

    Returns:
        `exponents`, a row a hyperparameter and axis; `losses`, at every scale that both have and at the target: the
        loss at each one's optimum, the difference, and each one's cost of reusing its smallest scale's optimum.

    Raises:
        FitError: the sweeps have other axes or tuned hyperparameters.
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
            "here": found.sentence(name, axis),
            "there": there.sentence(name, axis),
        }
        for name in a.tuned
        for axis, found in a.exponents[name].items()
        if (there := b.exponents[name].get(axis)) is not None
    ]
    by_key = {Scale(optimum.axes).key: optimum for optimum in b.optima}
    losses = []
    for found in a.optima:
        there_one = by_key.get(Scale(found.axes).key)
        if there_one is not None and np.isfinite([found.loss, there_one.loss]).all():
            costs = a.untransferred_cost(found), b.untransferred_cost(there_one)
            losses.append(_losses(a.runs.format_scale(found.axes), found.loss, there_one.loss, costs))
    row, there_row = one.predictions.iloc[0], other.predictions.iloc[0]
    if all(row[axis] == there_row[axis] for axis in a.columns.scales):
        costs = one.untransferred_nats(), other.untransferred_nats()
        losses.append(_losses("target, predicted", float(row["loss"]), float(there_row["loss"]), costs))
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
