"""Predictions for target scales, as in predictions.csv."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.predict.decision import Decision, decide


def predict_table(fit: Fit, targets: pd.DataFrame) -> pd.DataFrame:
    """Predict for every target, one row each in order.

    Columns: the scale; for each tuned column the decision, then the optimum's posterior, the value of even odds of
    divergence, whether the decision lies outside all tried values, and the factor on its interval; the loss at the
    optimum with its interval, with the metric's own sign; the risk in its unit and in percent, the probability of
    divergence, and the octaves of extrapolation.

    Args:
        targets: table with the scale columns.

    Raises:
        FitError: a target differs on an axis of which only one value was swept.
    """
    rows = []
    for values in targets.to_dict(orient="records"):
        scale = {axis: float(values[axis]) for axis in fit.columns.scales}
        decision = decide(fit, scale)
        row: dict[str, Any] = {axis: values[axis] for axis in fit.columns.scales}
        for k, name in enumerate(fit.tuned):
            row |= {f"{name}{end}": value for end, value in _of_tuned(fit, decision, k).items()}
        loss, *ends = map(fit.columns.objective.shown, fit.predict_loss(scale))
        row |= {"loss": loss, "loss_low": min(ends), "loss_high": max(ends)}
        row |= {
            "risk_expected": decision.expected,
            "risk_p90": decision.p90,
            "risk_expected_percent": decision.expected_percent,
            "risk_p90_percent": decision.p90_percent,
            "p_diverge": decision.p_diverge,
            "extrapolation_octaves": fit.extrapolation_octaves(scale),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _of_tuned(fit: Fit, decision: Decision, k: int) -> dict[str, Any]:
    """Return one tuned hyperparameter's columns, by the ends of their names."""
    stable = decision.stable_below[k]
    return {
        "": 2.0 ** decision.value[k],
        "_center": 2.0 ** decision.center[k],
        "_low": 2.0 ** decision.low[k],
        "_high": 2.0 ** decision.high[k],
        "_stable_below": math.nan if math.isnan(stable) else 2.0**stable,
        "_outside_tried": bool(decision.outside_tried[k]),
        "_widened_by": float(fit.widening.factor[k]),
    }
