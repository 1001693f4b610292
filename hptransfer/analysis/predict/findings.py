"""Findings of an analysis as values, tables and text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.ignored_movement import IgnoredLoss, Movement, loss_of_reuse, movement
from hptransfer.analysis.predict.next_runs import NextRun
from hptransfer.analysis.predict.validation import HeldOut, regret_per_octave
from hptransfer.analysis.tables.arrays import Axes
from hptransfer.analysis.tables.table_checks import format_counts
from hptransfer.core.records import Objective, short

# Runs that a sentence names.
EXCLUDED_IN_SENTENCE = 4
# Smallest percentage that a sentence shows.
LEAST_PERCENT = 0.01
# Regret of a held-out scale above which a prediction is not called good, percent of the loss.
LARGE_REGRET_PERCENT = 1.0


@dataclass(frozen=True, eq=False)
class Findings:
    """Findings of an analysis, as pandas DataFrames.

    Losses have the sign and the unit of the metric, errors and exponents are in octaves.

    Attributes:
        fit: the fit that the tables show.
        leave_one_out: every scale predicted from all others; `larger_from_smaller`, larger scales from smaller ones.
        predictions: one row per target, in order. Its columns are those of the scale; for each tuned column the
            decision, in the unit of the table, with the mean and the 90% interval of the optimum (`_center`, `_low`,
            `_high`), the value of even odds of divergence (`_stable_below`), whether the decision lies outside all
            tried values (`_outside_tried`) and the factor on the interval (`_widened_by`); `loss` with its interval;
            `risk_expected` and `risk_p90` above the optimum, and both with `_percent` of the loss; `p_diverge`;
            `extrapolation_octaves` beyond the largest swept scale, 0 inside.
        next_runs: runs that would narrow the first target's interval most for their cost, best first.
        warnings: one line each.
        uncounted: number of table rows that are not used, by their state, such as failed or running.
        fixed: tuned columns with one value in all runs, which is kept.
    """

    fit: Fit
    leave_one_out: Sequence[HeldOut]
    larger_from_smaller: Sequence[HeldOut]
    predictions: pd.DataFrame
    next_runs: Sequence[NextRun]
    warnings: list[str]
    uncounted: Mapping[str, int]
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def optima(self) -> pd.DataFrame:
        """Table of the scales' optima, one row per scale, cheapest first.

        For each tuned column NAME it has the optimum and its log2 with a standard error in octaves. The curvature is
        in the loss's unit per octave squared; the status is "bracketed" or the reason why not. The other columns are
        the loss at the optimum and the numbers of runs and of diverged runs.
        """
        return optima_table(self.fit)

    @property
    def exponents(self) -> pd.DataFrame:
        """Table of the exponents, one row per tuned column and axis.

        Columns: octaves of the optimum per octave of the axis with the 90% interval; the verdict, and True in `moves`
        if the interval does not hold 0; the factor from the axis's smallest value to the first target's, and the loss
        that the target adds if its optimum is taken to stay along this axis, both with 90% intervals. The loss is in
        its own unit, and in percent unless differences are fitted.
        """
        return exponents_table(self)

    @property
    def held_out(self) -> pd.DataFrame:
        """Table of held-out scales, one row per scale predicted from all others.

        Columns: the error in octaves by tuned column, True if the 90% interval covers it, and the regret in
        the loss's unit and in percent of the loss.
        """
        return held_out_table(self)

    def predict(self, scale: Mapping[str, float]) -> dict[str, float]:
        """Return the recommended tuned values of a scale."""
        values = 2.0 ** decide(self.fit, scale).value
        return dict(zip(self.fit.tuned, map(float, values), strict=True))

    def smallest_optimum(self) -> dict[str, float]:
        """Return the optimum of the smallest scale."""
        return dict(zip(self.fit.tuned, map(float, 2.0**self.fit.smallest.x), strict=True))

    @property
    def target(self) -> dict[str, float]:
        """Scale of the first target."""
        return {axis: float(self.predictions.iloc[0][axis]) for axis in self.fit.columns.scales}

    @cached_property
    def movements(self) -> dict[str, dict[str, Movement]]:
        """Movements to the first target, by tuned hyperparameter and axis."""
        return {
            name: {axis: movement(self.fit, k, axis, self.target) for axis in self.fit.exponents[name]}
            for k, name in enumerate(self.fit.tuned)
        }

    @cached_property
    def ignored_loss(self) -> IgnoredLoss:
        """Loss of the first target by reusing the smallest scale's optimum."""
        return loss_of_reuse(self.fit, self.target, self.fit.smallest.x)

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
        lines.append(risk_sentence(row, self.fit.columns.objective))
        lines.append(extrapolation_sentence(self.fit, {axis: float(row[axis]) for axis in self.fit.columns.scales}))
        if (others := len(self.predictions) - 1) > 0:
            lines.append(f"{others} more target{'s' * (others > 1)} in predictions.csv")
        if self.fit.excluded:
            lines.append(excluded_sentence(self.fit))
        if diverged := sum(optimum.diverged for optimum in self.fit.optima):
            lines.append(f"{diverged} of {len(self.fit.runs.loss)} runs diverged: counted by scale in optima.csv")
        if self.uncounted:
            lines.append(f"rows not used because of their state: {format_counts(self.uncounted)}")
        for name, exponents in self.fit.exponents.items():
            lines += [
                f"{name} along {axis}: {exponent.sentence(name, axis)}; {self.movements[name][axis].sentence()}"
                for axis, exponent in exponents.items()
            ]
        values = ", ".join(f"{name} {short(value)}" for name, value in self.smallest_optimum().items())
        lines += [
            reuse_sentence(values, self.ignored_loss),
            held_out_sentence(self.fit, self.leave_one_out),
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def risk_sentence(prediction: pd.Series[Any], objective: Objective) -> str:
    """Return a sentence about what a row of the predictions risks."""
    percent, p90_percent = prediction["risk_expected_percent"], prediction["risk_p90_percent"]
    expected, p90 = format_percent(percent), format_percent(max(p90_percent, LEAST_PERCENT))
    if math.isnan(percent):  # differences are fitted
        expected, p90 = (
            objective.with_unit(f"{float(prediction[name]):.2g}") for name in ("risk_expected", "risk_p90")
        )
        expected += "" if objective.unit else f" of {objective.name}"
    sentence = f"Expected to lose {expected} to the target's own optimum, with 90% probability below {p90}"
    if math.isnan(prediction["p_diverge"]):
        return f"{sentence}."
    return f"{sentence}; it diverges with a probability of {format_percent(100 * prediction['p_diverge'])}."


def format_percent(percent: float) -> str:
    """Return a percentage with two significant digits, at least 0.01%."""
    return f"less than {LEAST_PERCENT}%" if percent < LEAST_PERCENT else f"{float(f'{percent:.2g}'):g}%"


def excluded_sentence(fit: Fit) -> str:
    """Return a sentence about runs with a finite loss left out."""
    objective = fit.columns.objective
    named = [
        f"row {run.row} ({run.reason}, {objective.with_unit(f'{objective.shown(run.excess):+.2g}')})"
        for run in fit.excluded[:EXCLUDED_IN_SENTENCE]
    ]
    more = len(fit.excluded) - len(named)
    runs = "1 run" if len(fit.excluded) == 1 else f"{len(fit.excluded)} runs"
    return f"{runs} with a finite loss left out: {', '.join(named)}" + (f" and {more} more" if more else "")


def reuse_sentence(values: str, lost: IgnoredLoss) -> str:
    """Return a sentence about the loss of reusing the smallest scale's optimum.

    Args:
        values: the optimum as text.
    """
    return f"reusing the smallest scale's optimum ({values}) would cost the target {lost.sentence()}"


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
    sentence = (
        f"Predicted from all other scales, the optimum of the largest one ({fit.runs.format_scale(last.axes)}) is off "
        f"by {errors}, {regret_text(last.regret_nats, last.regret_percent, fit.columns.objective)} of regret; the 90% "
        f"interval of that prediction {covers} it."
    )
    unit = fit.runs.response.unit
    relative = last.regret_percent if unit is None else 100 * last.regret_nats / unit
    if relative > LARGE_REGRET_PERCENT:
        return f"{sentence} A regret this large means that these runs do not predict that scale well."
    return sentence


def regret_text(regret: float, percent: float, objective: Objective) -> str:
    """Return a regret as text, such as "0.0123 nats (0.40%)"."""
    share = "" if math.isnan(percent) else f" ({percent:.2f}%)"
    return objective.with_unit(f"{regret:.4f}") + share


def widening_warnings(fit: Fit) -> list[str]:
    """Return a warning for each hyperparameter whose interval is widened."""
    widened = zip(fit.tuned, fit.widening.factor, fit.widening.reasons, strict=True)
    return [
        f"the interval of {name} is {factor:.2g} times as wide as the fit alone says: {reason}"
        for name, factor, reason in widened
        if reason
    ]


def decision_warnings(fit: Fit, prediction: pd.Series[Any]) -> list[str]:
    """Return warnings about the recommended values of a row of the predictions."""
    notes = []
    tried = 2.0 ** np.stack([fit.runs.x.min(axis=0), fit.runs.x.max(axis=0)], axis=1)
    for name, (lowest, highest) in zip(fit.tuned, tried, strict=True):
        if prediction[f"{name}_outside_tried"]:
            notes.append(
                f"the recommended {name}, {short(float(prediction[name]))}, lies outside all values that were tried, "
                f"{short(float(lowest))} to {short(float(highest))}"
            )
    return notes


def optima_table(fit: Fit) -> pd.DataFrame:
    """Return the optima of all scales as a table, cheapest scale first."""
    rows = []
    for optimum in fit.optima:
        row: dict[str, Any] = dict(optimum.axes)
        for k, name in enumerate(fit.tuned):
            row |= {name: 2.0 ** optimum.x[k], f"log2_{name}": optimum.x[k], f"log2_{name}_se": optimum.se[k]}
            row |= {f"{name}_curvature": optimum.curvature[k], f"{name}_status": optimum.status[k]}
        rows.append(
            {
                **row,
                "loss": fit.columns.objective.shown(optimum.loss),
                "runs": optimum.runs,
                "diverged": optimum.diverged,
            }
        )
    return pd.DataFrame(rows)


def exponents_table(findings: Findings) -> pd.DataFrame:
    """Return the exponents as a table, by tuned hyperparameter and axis."""
    rows = []
    for name, exponents in findings.fit.exponents.items():
        for axis, exponent in exponents.items():
            numbers = {"value": exponent.value, "low": exponent.low, "high": exponent.high, "se": exponent.se}
            verdict = {"verdict": exponent.verdict, "moves": exponent.moves}
            to_target = findings.movements[name][axis]
            factor, lost = to_target.factor, to_target.ignored
            columns = {
                "factor_to_target": factor.value,
                "factor_to_target_low": factor.low,
                "factor_to_target_high": factor.high,
                "loss_if_ignored": lost.nats.value,
                "loss_if_ignored_low": lost.nats.low,
                "loss_if_ignored_high": lost.nats.high,
                "loss_if_ignored_percent": lost.response.percent(lost.nats.value, lost.loss),
                "p_diverge_if_ignored": lost.p_diverge,
            }
            rows.append({"tuned": name, "axis": axis, **numbers, **verdict, **columns})
    return pd.DataFrame(rows)


def held_out_table(findings: Findings) -> pd.DataFrame:
    """Return the held-out scales as a table, one row per scale."""
    rows = []
    for held_out in findings.leave_one_out:
        row: dict[str, Any] = dict(held_out.axes)
        for k, name in enumerate(findings.fit.tuned):
            row |= {f"{name}_error_octaves": held_out.error[k], f"{name}_covered": held_out.covered[k]}
        rows.append({**row, "regret": held_out.regret_nats, "regret_percent": held_out.regret_percent})
    return pd.DataFrame(rows)


def fit_json(findings: Findings) -> dict[str, Any]:
    """Return the content of fit.json."""
    fit = findings.fit
    scatter = fit.mixture.scatter()
    hyperparameters: dict[str, Any] = {
        name: {"exponents": {}, "scatter_octaves": float(scatter[k])} for k, name in enumerate(fit.tuned)
    }
    for name, by_axis in findings.movements.items():
        for axis, to_target in by_axis.items():
            exponent = fit.exponents[name][axis]
            hyperparameters[name]["exponents"][axis] = {
                **{key: getattr(exponent, key) for key in ("value", "low", "high", "se", "verdict", "moves")},
                "factor_to_target": asdict(to_target.factor),
                "loss_if_ignored": to_target.ignored.json(),
            }
    return {
        "estimator": fit.estimator,
        "laws": fit.mixture.shares(),
        "expected_before": fit.published_priors,
        "hyperparameters": hyperparameters,
        "metric": asdict(fit.columns.objective),
        "noise": fit.noise,
        "excluded_runs": [{**asdict(run), "excess": fit.columns.objective.shown(run.excess)} for run in fit.excluded],
        "held_out": [_held_out_json(fit, held_out) for held_out in findings.leave_one_out],
        "regret_percent_per_octave": regret_per_octave(findings.larger_from_smaller),
        "warnings": findings.warnings,
    }


def _held_out_json(fit: Fit, held_out: HeldOut) -> dict[str, Any]:
    errors = dict(zip(fit.tuned, map(float, held_out.error), strict=True))
    covered = dict(zip(fit.tuned, held_out.covered, strict=True))
    regret = {"regret": held_out.regret_nats, "regret_percent": _number_or_none(held_out.regret_percent)}
    return {"scale": dict(held_out.axes), "error_octaves": errors, "covered": covered, **regret}


def prediction_json(findings: Findings) -> dict[str, Any]:
    """Return the content of prediction.json: the prediction for the first target."""
    fit, row = findings.fit, findings.predictions.iloc[0]
    return {
        "target": {axis: _as_number(row[axis]) for axis in fit.columns.scales},
        "hyperparameters": {name: _prediction_of(fit, row, k) for k, name in enumerate(fit.tuned)}
        | {name: {"value": value, "fixed": True} for name, value in findings.fixed.items()},
        "metric": asdict(fit.columns.objective),
        "loss": {"value": float(row["loss"]), "low": float(row["loss_low"]), "high": float(row["loss_high"])},
        "risk": {
            "expected": float(row["risk_expected"]),
            "p90": float(row["risk_p90"]),
            "expected_percent": _number_or_none(row["risk_expected_percent"]),
            "p90_percent": _number_or_none(row["risk_p90_percent"]),
        },
        "p_diverge": _number_or_none(row["p_diverge"]),
        "extrapolation_octaves": float(row["extrapolation_octaves"]),
        "loss_if_ignored": {**findings.smallest_optimum(), **findings.ignored_loss.json()},
    }


def _prediction_of(fit: Fit, row: pd.Series[Any], k: int) -> dict[str, Any]:
    """Return the prediction of one tuned hyperparameter."""
    name, reason = fit.tuned[k], fit.widening.reasons[k]
    return {
        "value": float(row[name]),
        "center": float(row[f"{name}_center"]),
        "low": float(row[f"{name}_low"]),
        "high": float(row[f"{name}_high"]),
        "stable_below": _number_or_none(row[f"{name}_stable_below"]),
        "outside_tried": bool(row[f"{name}_outside_tried"]),
        "widened_by": {"factor": float(row[f"{name}_widened_by"]), "reason": reason or None},
    }


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _as_number(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
