"""Findings of an analysis as values, tables and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.predict.next_runs import NextRun
from hptransfer.analysis.predict.validation import HeldOut, regret_per_octave
from hptransfer.analysis.tables.arrays import Axes
from hptransfer.analysis.tables.table_checks import format_counts
from hptransfer.core.records import short


@dataclass(frozen=True, eq=False)
class Findings:
    """Findings of an analysis, as pandas DataFrames.

    Losses are in nats, errors and exponents in octaves.

    Attributes:
        fit: the fit that the tables show.
        leave_one_out: every scale predicted from all others; `larger_from_smaller`, larger scales from smaller ones.
        predictions: one row per target, in order. Its columns are those of the scale; for each tuned column the value
            and its 90% interval (`_low`, `_high`) in the unit of the table; `loss` with its interval;
            `extrapolation_octaves` beyond the largest swept scale, 0 inside.
        next_runs: runs that would narrow the first target's interval most for their cost, best first.
        warnings: one line each.
        uncounted: number of table rows that are not used, by their state, such as failed or running.
    """

    fit: Fit
    leave_one_out: Sequence[HeldOut]
    larger_from_smaller: Sequence[HeldOut]
    predictions: pd.DataFrame
    next_runs: Sequence[NextRun]
    warnings: list[str]
    uncounted: Mapping[str, int]

    @property
    def optima(self) -> pd.DataFrame:
        """Table of the scales' optima, one row per scale, cheapest first.

        For each tuned column NAME it has the optimum and its log2 with a standard error in octaves. The curvature is
        in nats per octave squared; the status is "bracketed" or the reason why not. The other columns are the loss at
        the optimum in nats and the numbers of runs and of diverged runs.
        """
        return optima_table(self.fit)

    @property
    def exponents(self) -> pd.DataFrame:
        """Table of the exponents, one row per tuned column and axis.

        Columns: octaves of the optimum per octave of the axis with the 90% interval and the verdict, and the cost of
        reusing the smallest scale's optimum, in nats and percent. The cost is for a scale at which only this axis has
        grown to the first target's value.
        """
        return exponents_table(self)

    @property
    def held_out(self) -> pd.DataFrame:
        """Table of held-out scales, one row per scale predicted from all others.

        Columns: the error in octaves by tuned column, True if the 90% interval covers it, and the regret in nats and
        in percent of the loss.
        """
        return held_out_table(self)

    def predict(self, scale: Mapping[str, float]) -> dict[str, float]:
        """Return the predicted tuned values of a scale."""
        values = 2.0 ** self.fit.predict(scale)[:, 0]
        return dict(zip(self.fit.tuned, map(float, values), strict=True))

    def smallest_optimum(self) -> dict[str, float]:
        """Return the optimum of the smallest scale."""
        return dict(zip(self.fit.tuned, map(float, 2.0**self.fit.smallest.x), strict=True))

    def untransferred_nats(self) -> float:
        """Return the first target's cost of reusing the smallest scale's optimum, nats."""
        row = self.predictions.iloc[0]
        scale = {axis: float(row[axis]) for axis in self.fit.columns.scales}
        away = self.fit.smallest.x - self.fit.predict(scale)[:, 0]
        return float(self.fit.excess_loss(scale, away, float(row["loss"]))[0])

    def metrics(self) -> dict[str, float]:
        """Return the predictions of the first target, for a tracker."""
        row = self.predictions.iloc[0]
        keys = [f"{name}{end}" for name in self.fit.tuned for end in ("", "_low", "_high")]
        return {f"predicted_{key}": float(row[key]) for key in (*keys, "loss")}

    def summary(self) -> str:
        """Return the main results as a few lines for the terminal."""
        row = self.predictions.iloc[0]
        scale = self.fit.runs.format_scale({axis: float(row[axis]) for axis in self.fit.columns.scales})
        lines = [
            f"recommended {name} for {scale}: {short(float(row[name]))} "
            f"(90% interval {short(float(row[f'{name}_low']))} to {short(float(row[f'{name}_high']))})"
            for name in self.fit.tuned
        ]
        lines.append(extrapolation_sentence(self.fit, {axis: float(row[axis]) for axis in self.fit.columns.scales}))
        if (others := len(self.predictions) - 1) > 0:
            lines.append(f"{others} more target{'s' * (others > 1)} in predictions.csv")
        if diverged := sum(optimum.diverged for optimum in self.fit.optima):
            lines.append(f"{diverged} of {len(self.fit.runs.loss)} runs diverged: counted by scale in optima.csv")
        if self.uncounted:
            lines.append(f"rows not used because of their state: {format_counts(self.uncounted)}")
        for name, exponents in self.fit.exponents.items():
            by_axis = ", ".join(f"{axis} {exponent.sentence(name, axis)}" for axis, exponent in exponents.items())
            lines.append(f"exponents of {name}: {by_axis or 'none'}")
        values = ", ".join(f"{name} {short(value)}" for name, value in self.smallest_optimum().items())
        lines += [
            f"reusing the smallest scale's optimum ({values}) would cost the target about "
            f"{self.untransferred_nats():.3f} nats, by the fitted response surface",
            held_out_sentence(self.fit, self.leave_one_out),
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def extrapolation_sentence(fit: Fit, scale: Axes) -> str:
    """Return a sentence about the target's distance from the swept scales."""
    beyond, below = fit.extrapolation_octaves(scale), fit.octaves_below(scale)
    parts = [f"{beyond:.1f} octaves beyond the largest scale"] if beyond > 0 else []
    parts += [f"{below:.1f} octaves below the smallest scale"] if below > 0 else []
    if not parts:
        return "The target lies inside the swept range: this is interpolation."
    return f"The target lies {' and '.join(parts)} that was swept."


def held_out_sentence(fit: Fit, held_out: Sequence[HeldOut]) -> str:
    """Return a sentence about the prediction of the held-out largest scale."""
    if not held_out or held_out[-1].axes != fit.optima[-1].axes:
        return "The largest scale could not be held out: too few scales are left, or its own optimum is unknown."
    last = held_out[-1]
    errors = " and ".join(f"{error:+.2f} octaves of {name}" for name, error in zip(fit.tuned, last.error, strict=True))
    covers = "covers" if all(last.covered) else "does not cover"
    return (
        f"Predicted from all other scales, the optimum of the largest one ({fit.runs.format_scale(last.axes)}) is off "
        f"by {errors}, {last.regret_nats:.4f} nats ({last.regret_percent:.2f}%) of regret; the 90% interval of that "
        f"prediction {covers} it."
    )


def untransferred_cost(fit: Fit, tuned: int, axis: str, target: Mapping[str, float], loss: float) -> float:
    """Return the cost of reusing one optimum while one axis grows, nats.

    Args:
        tuned: index of the hyperparameter that keeps the optimum of the axis's smallest value.
        loss: nats at the target's optimum.
    """
    away = np.zeros(len(fit.tuned))
    octaves = np.log2(target[axis] / fit.swept.values[axis][0])
    away[tuned] = -fit.exponents[fit.tuned[tuned]][axis].value * octaves
    return float(fit.excess_loss(target, away, loss)[0])


def optima_table(fit: Fit) -> pd.DataFrame:
    """Return the optima of all scales as a table, cheapest scale first."""
    rows = []
    for optimum in fit.optima:
        row: dict[str, Any] = dict(optimum.axes)
        for k, name in enumerate(fit.tuned):
            row |= {name: 2.0 ** optimum.x[k], f"log2_{name}": optimum.x[k], f"log2_{name}_se": optimum.se[k]}
            row |= {f"{name}_curvature": optimum.curvature[k], f"{name}_status": optimum.status[k]}
        rows.append({**row, "loss": optimum.loss, "runs": optimum.runs, "diverged": optimum.diverged})
    return pd.DataFrame(rows)


def exponents_table(findings: Findings) -> pd.DataFrame:
    """Return the exponents as a table, by tuned hyperparameter and axis."""
    fit, row = findings.fit, findings.predictions.iloc[0]
    target, loss = {axis: float(row[axis]) for axis in fit.columns.scales}, float(row["loss"])
    rows = []
    for k, name in enumerate(fit.tuned):
        for axis, exponent in fit.exponents[name].items():
            cost = untransferred_cost(fit, k, axis, target, loss)
            numbers = {"value": exponent.value, "low": exponent.low, "high": exponent.high, "se": exponent.se}
            cost_of = {"untransferred_cost_nats": cost, "untransferred_cost_percent": 100 * cost / loss}
            rows.append({"tuned": name, "axis": axis, **numbers, "verdict": exponent.verdict, **cost_of})
    return pd.DataFrame(rows)


def held_out_table(findings: Findings) -> pd.DataFrame:
    """Return the held-out scales as a table, one row per scale."""
    rows = []
    for held_out in findings.leave_one_out:
        row: dict[str, Any] = dict(held_out.axes)
        for k, name in enumerate(findings.fit.tuned):
            row |= {f"{name}_error_octaves": held_out.error[k], f"{name}_covered": held_out.covered[k]}
        rows.append({**row, "regret_nats": held_out.regret_nats, "regret_percent": held_out.regret_percent})
    return pd.DataFrame(rows)


def fit_json(findings: Findings) -> dict[str, Any]:
    """Return the content of fit.json."""
    fit = findings.fit
    scatter = fit.mixture.scatter()
    hyperparameters: dict[str, Any] = {
        name: {"exponents": {}, "scatter_octaves": float(scatter[k])} for k, name in enumerate(fit.tuned)
    }
    for row in exponents_table(findings).to_dict(orient="records"):
        hyperparameters[row.pop("tuned")]["exponents"][row.pop("axis")] = row
    return {
        "estimator": fit.estimator,
        "laws": fit.mixture.shares(),
        "expected_before": fit.published_priors,
        "hyperparameters": hyperparameters,
        "noise_nats": fit.noise,
        "held_out": [_held_out_json(fit, held_out) for held_out in findings.leave_one_out],
        "regret_percent_per_octave": regret_per_octave(findings.larger_from_smaller),
        "warnings": findings.warnings,
    }


def _held_out_json(fit: Fit, held_out: HeldOut) -> dict[str, Any]:
    errors = dict(zip(fit.tuned, map(float, held_out.error), strict=True))
    covered = dict(zip(fit.tuned, held_out.covered, strict=True))
    regret = {"regret_nats": held_out.regret_nats, "regret_percent": held_out.regret_percent}
    return {"scale": dict(held_out.axes), "error_octaves": errors, "covered": covered, **regret}


def prediction_json(findings: Findings) -> dict[str, Any]:
    """Return the content of prediction.json: the prediction for the first target."""
    fit, row = findings.fit, findings.predictions.iloc[0]

    def interval(name: str) -> dict[str, float]:
        return {"value": float(row[name]), "low": float(row[f"{name}_low"]), "high": float(row[f"{name}_high"])}

    return {
        "target": {axis: _as_number(row[axis]) for axis in fit.columns.scales},
        "hyperparameters": {name: interval(name) for name in fit.tuned},
        "loss": interval("loss"),
        "extrapolation_octaves": float(row["extrapolation_octaves"]),
    }


def _as_number(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
