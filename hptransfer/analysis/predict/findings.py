"""What an analysis found, as values, tables and text."""

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
from hptransfer.analysis.tables.checks import count_words
from hptransfer.core.records import short


@dataclass(frozen=True, eq=False)
class Findings:
    """What analyze found. Tables are DataFrames, losses nats, errors and exponents octaves.

    Attributes:
        fit: every number behind the tables.
        left_out: every scale predicted from all others; `ahead`, larger scales from smaller ones.
        predictions: one row a target, in order: the scale columns; of each tuned column the value and its 90%
            interval (`_low`, `_high`), in its own unit; `loss` with its interval, in nats; `extrapolation_octaves`
            beyond the largest swept scale, 0 inside.
        next_runs: what would narrow the first target's interval most for its cost, best first.
        warnings: one line each.
        uncounted: how many rows of the table do not count, by their state: failed, running and the like.
    """

    fit: Fit
    left_out: Sequence[HeldOut]
    ahead: Sequence[HeldOut]
    predictions: pd.DataFrame
    next_runs: Sequence[NextRun]
    warnings: list[str]
    uncounted: Mapping[str, int]

    @property
    def optima(self) -> pd.DataFrame:
        """One row a scale, cheapest first: of each tuned column its optimum as `NAME`, log2 of it, the standard error
        of that in octaves, the curvature in nats per octave squared and whether it is bracketed; the loss there in
        nats; how many runs there are and how many of them diverged."""
        return optima_table(self.fit)

    @property
    def exponents(self) -> pd.DataFrame:
        """One row a tuned column and axis: octaves of the optimum per octave of the axis with the 90% interval and
        the verdict; what the first target loses, in nats and percent, if that alone is not moved with it."""
        return exponents_table(self)

    @property
    def held_out(self) -> pd.DataFrame:
        """One row a scale that was predicted from all others: the error in octaves by tuned column, whether the 90%
        interval covers it, and the regret in nats and percent of the loss."""
        return held_out_table(self)

    def predict(self, scale: Mapping[str, float]) -> dict[str, float]:
        """The tuned values to train a scale with."""
        values = 2.0 ** self.fit.predict(scale)[:, 0]
        return dict(zip(self.fit.tuned, map(float, values), strict=True))

    def smallest_optimum(self) -> dict[str, float]:
        """The optimum of the smallest scale."""
        return dict(zip(self.fit.tuned, map(float, 2.0**self.fit.smallest.x), strict=True))

    def untransferred_nats(self) -> float:
        """What the first target would lose with the smallest scale's optimum."""
        row = self.predictions.iloc[0]
        scale = {axis: float(row[axis]) for axis in self.fit.columns.scales}
        away = self.fit.smallest.x - self.fit.predict(scale)[:, 0]
        return float(self.fit.excess_loss(scale, away, float(row["loss"]))[0])

    def metrics(self) -> dict[str, float]:
        """A few numbers for a tracker."""
        row = self.predictions.iloc[0]
        keys = [f"{name}{end}" for name in self.fit.tuned for end in ("", "_low", "_high")]
        return {f"predicted_{key}": float(row[key]) for key in (*keys, "loss")}

    def summary(self) -> str:
        """A few lines for the terminal: the answer, its interval, and what it rests on."""
        row = self.predictions.iloc[0]
        scale = self.fit.runs.format_scale({axis: float(row[axis]) for axis in self.fit.columns.scales})
        lines = [
            f"recommended {name} for {scale}: {short(float(row[name]))} "
            f"(90% interval {short(float(row[f'{name}_low']))} to {short(float(row[f'{name}_high']))})"
            for name in self.fit.tuned
        ]
        lines.append(distance_sentence(self.fit, {axis: float(row[axis]) for axis in self.fit.columns.scales}))
        if (others := len(self.predictions) - 1) > 0:
            lines.append(f"{others} more target{'s' * (others > 1)} in predictions.csv")
        if diverged := sum(one.diverged for one in self.fit.optima):
            lines.append(f"{diverged} of {len(self.fit.runs.loss)} runs diverged: counted by scale in optima.csv")
        if self.uncounted:
            lines.append(f"rows that do not count, as their state says: {count_words(self.uncounted)}")
        for name, exponents in self.fit.exponents.items():
            found = ", ".join(f"{axis} {exponent.sentence(name, axis)}" for axis, exponent in exponents.items())
            lines.append(f"exponents of {name}: {found or 'none'}")
        values = ", ".join(f"{name} {short(value)}" for name, value in self.smallest_optimum().items())
        lines += [
            f"reusing the smallest scale's optimum ({values}) would cost the target about "
            f"{self.untransferred_nats():.3f} nats, by the fitted response surface",
            held_out_sentence(self.fit, self.left_out),
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def distance_sentence(fit: Fit, scale: Axes) -> str:
    """How far the target is from what was seen, in words."""
    beyond, below = fit.extrapolation_octaves(scale), fit.octaves_below(scale)
    parts = [f"{beyond:.1f} octaves beyond the largest scale"] if beyond > 0 else []
    parts += [f"{below:.1f} octaves below the smallest scale"] if below > 0 else []
    if not parts:
        return "The target lies inside the swept range: this is interpolation."
    return f"The target lies {' and '.join(parts)} that was swept."


def held_out_sentence(fit: Fit, held_out: Sequence[HeldOut]) -> str:
    """What leaving out the largest scale showed, in words."""
    if not held_out or held_out[-1].axes != fit.optima[-1].axes:
        return "The largest scale could not be held out: too few scales are left, or its own optimum is not known."
    last = held_out[-1]
    errors = " and ".join(f"{error:+.2f} octaves of {name}" for name, error in zip(fit.tuned, last.error, strict=True))
    inside = "holds" if all(last.covered) else "does not hold"
    return (
        f"Predicted from all other scales, the optimum of the largest one ({fit.runs.format_scale(last.axes)}) is off "
        f"by {errors}, {last.regret_nats:.4f} nats ({last.regret_percent:.2f}%) of regret; the 90% interval of that "
        f"prediction {inside} it."
    )


def untransferred_cost(fit: Fit, tuned: int, axis: str, target: Mapping[str, float], loss: float) -> float:
    """Nats lost at the target if one axis grows to it and one hyperparameter is not moved with it."""
    away = np.zeros(len(fit.tuned))
    moved = np.log2(target[axis] / fit.seen.values[axis][0])
    away[tuned] = -fit.exponents[fit.tuned[tuned]][axis].value * moved
    return float(fit.excess_loss(target, away, loss)[0])


def optima_table(fit: Fit) -> pd.DataFrame:
    """The optimum of every scale, cheapest first."""
    rows = []
    for one in fit.optima:
        row: dict[str, Any] = dict(one.axes)
        for k, name in enumerate(fit.tuned):
            row |= {name: 2.0 ** one.x[k], f"log2_{name}": one.x[k], f"log2_{name}_se": one.se[k]}
            row |= {f"{name}_curvature": one.curvature[k], f"{name}_status": one.status[k]}
        rows.append({**row, "loss": one.loss, "runs": one.runs, "diverged": one.diverged})
    return pd.DataFrame(rows)


def exponents_table(findings: Findings) -> pd.DataFrame:
    """A row a tuned hyperparameter and axis: the exponent, its 90% interval, the verdict, what ignoring it costs."""
    fit, row = findings.fit, findings.predictions.iloc[0]
    target, loss = {axis: float(row[axis]) for axis in fit.columns.scales}, float(row["loss"])
    rows = []
    for k, name in enumerate(fit.tuned):
        for axis, one in fit.exponents[name].items():
            cost = untransferred_cost(fit, k, axis, target, loss)
            numbers = {"value": one.value, "low": one.low, "high": one.high, "se": one.se, "verdict": one.verdict}
            cost_of = {"untransferred_cost_nats": cost, "untransferred_cost_percent": 100 * cost / loss}
            rows.append({"tuned": name, "axis": axis, **numbers, **cost_of})
    return pd.DataFrame(rows)


def held_out_table(findings: Findings) -> pd.DataFrame:
    """A row a scale that was left out: its axes, the prediction's error by hyperparameter, and the regret."""
    rows = []
    for one in findings.left_out:
        row: dict[str, Any] = dict(one.axes)
        for k, name in enumerate(findings.fit.tuned):
            row |= {f"{name}_error_octaves": one.error[k], f"{name}_covered": one.covered[k]}
        rows.append({**row, "regret_nats": one.regret_nats, "regret_percent": one.regret_percent})
    return pd.DataFrame(rows)


def fit_json(findings: Findings) -> dict[str, Any]:
    """What fit.json holds."""
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
        "expected_before": fit.expected,
        "hyperparameters": hyperparameters,
        "noise_nats": fit.noise,
        "held_out": [_held_json(fit, one) for one in findings.left_out],
        "regret_percent_per_octave": regret_per_octave(findings.ahead),
        "warnings": findings.warnings,
    }


def _held_json(fit: Fit, one: HeldOut) -> dict[str, Any]:
    errors = dict(zip(fit.tuned, map(float, one.error), strict=True))
    covered = dict(zip(fit.tuned, one.covered, strict=True))
    regret = {"regret_nats": one.regret_nats, "regret_percent": one.regret_percent}
    return {"scale": dict(one.axes), "error_octaves": errors, "covered": covered, **regret}


def prediction_json(findings: Findings) -> dict[str, Any]:
    fit, row = findings.fit, findings.predictions.iloc[0]

    def interval(name: str) -> dict[str, float]:
        return {"value": float(row[name]), "low": float(row[f"{name}_low"]), "high": float(row[f"{name}_high"])}

    return {
        "target": {axis: _plain(row[axis]) for axis in fit.columns.scales},
        "hyperparameters": {name: interval(name) for name in fit.tuned},
        "loss": interval("loss"),
        "extrapolation_octaves": float(row["extrapolation_octaves"]),
    }


def _plain(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
