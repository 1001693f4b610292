"""Two sweeps side by side: say muP and SP, each at its own optimum and unmoved from its smallest scale's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.analysis.predict.findings import Findings
from hptransfer.analysis.tables.scale_names import describe
from hptransfer.core.errors import FitError
from hptransfer.core.records import short


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
        loss at each one's optimum, what the other gives away there, and what each loses unmoved.

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
            "here": f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}] {found.verdict}",
            "there": f"{there.value:+.2f} [{there.low:+.2f}, {there.high:+.2f}] {there.verdict}",
        }
        for name in a.tuned
        for axis, found in a.exponents[name].items()
        if (there := b.exponents[name].get(axis)) is not None
    ]
    by_name = {describe(found.axes): found for found in b.optima}
    losses = []
    for found in a.optima:
        there_one = by_name.get(describe(found.axes))
        if there_one is not None and np.isfinite([found.loss, there_one.loss]).all():
            costs = a.unmoved_cost(found), b.unmoved_cost(there_one)
            losses.append(_losses(describe(found.axes), found.loss, there_one.loss, costs))
    row, there_row = one.predictions.iloc[0], other.predictions.iloc[0]
    if all(row[axis] == there_row[axis] for axis in a.columns.scales):
        costs = one.unmoved_nats(), other.unmoved_nats()
        losses.append(_losses("target, predicted", float(row["loss"]), float(there_row["loss"]), costs))
    return {"exponents": exponents, "losses": losses}


def _losses(name: str, here: float, there: float, unmoved: tuple[float, float]) -> dict[str, str]:
    return {
        "name": name,
        "here": short(here),
        "there": short(there),
        "given_away": f"{there - here:+.4f}",
        "unmoved_here": f"{unmoved[0]:.4f}",
        "unmoved_there": f"{unmoved[1]:.4f}",
    }
