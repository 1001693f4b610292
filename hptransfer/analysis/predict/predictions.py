"""Predictions for target scales, as in predictions.csv."""

from __future__ import annotations

import pandas as pd

from hptransfer.analysis.laws.fit import Fit


def predict_table(fit: Fit, targets: pd.DataFrame) -> pd.DataFrame:
    """Predict for every target, one row each in order.

    Columns: the scale, the tuned values and the loss with 90% intervals, and the octaves of extrapolation.

    Args:
        targets: table with the scale columns.

    Raises:
        FitError: a target differs on an axis of which only one value was swept.
    """
    rows = []
    for values in targets.to_dict(orient="records"):
        scale = {axis: float(values[axis]) for axis in fit.columns.scales}
        row = {axis: values[axis] for axis in fit.columns.scales}
        for name, (x, low, high) in zip(fit.tuned, fit.predict(scale), strict=True):
            row |= {name: 2.0**x, f"{name}_low": 2.0**low, f"{name}_high": 2.0**high}
        loss, loss_low, loss_high = fit.predict_loss(scale)
        row |= {
            "loss": loss,
            "loss_low": loss_low,
            "loss_high": loss_high,
            "extrapolation_octaves": fit.extrapolation_octaves(scale),
        }
        rows.append(row)
    return pd.DataFrame(rows)
