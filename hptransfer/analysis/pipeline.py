"""The analyze stage: from records to every file that it writes, for a run and for anybody's table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.fit import Fit, HeldOut, describe, fit_table, hold_out
from hptransfer.analysis.plots import curves_figure
from hptransfer.analysis.predict import (
    predict_table,
    predicted_command,
    predicted_settings,
    resolved_branch,
    resolved_groups,
)
from hptransfer.analysis.records import WAITING, Columns, load_table, load_targets, run_records
from hptransfer.analysis.report import Context, held_out_sentence, render, unmoved_cost
from hptransfer.core.errors import FitError, RunFolderError
from hptransfer.core.files import RunFolder, make_writable, read_json, write_json, write_text
from hptransfer.core.records import DIVERGED, DONE, FAILED, short

# Beyond so many octaves from the largest scale a straight law is a leap.
FAR_OCTAVES = 4.0
# Fewer optimizer steps than this say more of the warm-up than of training.
FEW_STEPS = 50
FILES = (
    "report.html",
    "loss_curves.svg",
    "prediction.json",
    "predictions.csv",
    "fit.json",
    "optima.csv",
    "records.csv",
)
# What target.json must hold for an analysis; the driver writes it.
TARGET_KEYS = (
    "name",
    "scales",
    "tuned",
    "target",
    "params",
    "flops",
    "base",
    "decay",
    "branch_multiplier",
    "complement",
    "groups",
    "fingerprint",
    "parameterization",
)


@dataclass(frozen=True, eq=False)
class Analysis:
    """What analyze found.

    Attributes:
        predictions: one row a target, in order.
    """

    fit: Fit
    held_out: HeldOut
    predictions: pd.DataFrame
    warnings: list[str]

    def predict(self, scale: Mapping[str, float]) -> float:
        """The tuned value to train a scale with."""
        return float(2.0 ** self.fit.predict(scale)[0])

    def smallest_optimum(self) -> float:
        """The optimum of the smallest scale."""
        return float(2.0**self.fit.smallest.x)

    def _unmoved_nats(self) -> float:
        scale = {axis: float(self.predictions.iloc[0][axis]) for axis in self.fit.columns.scales}
        return self.fit.shift_cost(self.fit.predict(scale)[0] - self.fit.smallest.x)

    def metrics(self) -> dict[str, float]:
        """A few numbers for a tracker."""
        name, row = self.fit.columns.tuned_one, self.predictions.iloc[0]
        keys = [name, f"{name}_low", f"{name}_high", "loss"]
        return {f"predicted_{key}": float(row[key]) for key in keys}

    def summary(self) -> str:
        """A few lines for the terminal: the answer, its interval, and what it rests on."""
        name, row = self.fit.columns.tuned_one, self.predictions.iloc[0]
        scale = describe({axis: row[axis] for axis in self.fit.columns.scales})
        exponents = ", ".join(
            f"{axis} {exponent.value:+.2f} [{exponent.low:+.2f}, {exponent.high:+.2f}] {exponent.verdict}"
            for axis, exponent in self.fit.exponents.items()
        )
        lines = [
            f"recommended {name} for {scale}: {short(float(row[name]))} "
            f"(90% interval {short(float(row[f'{name}_low']))} to {short(float(row[f'{name}_high']))})",
            f"exponents: {exponents or 'none'}",
            f"the smallest scale's optimum unmoved ({short(self.smallest_optimum())}) would cost the target about "
            f"{self._unmoved_nats():.3f} nats, by the curvature of the scales",
            held_out_sentence(self.held_out),
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def analyze_table(
    table: pd.DataFrame, columns: Columns, targets: pd.DataFrame, out: Path, context: Context
) -> Analysis:
    """Fits a checked table and writes FILES but for records.csv.

    Raises:
        FitError: no law can be fitted.
    """
    fit = fit_table(table, columns)
    held_out = hold_out(fit)
    predictions = predict_table(fit, targets)
    notes = [*context.warnings, *_warnings(table, columns.loss, predictions), *fit.warnings]
    analysis = Analysis(fit, held_out, predictions, notes)
    write_text(out / "optima.csv", _optima(fit).to_csv(index=False))
    write_text(out / "predictions.csv", predictions.to_csv(index=False))
    write_json(out / "fit.json", _fit_json(analysis))
    write_json(out / "prediction.json", _prediction_json(analysis))
    first = predictions.to_dict(orient="records")[0]
    page = render(fit, held_out, {str(key): value for key, value in first.items()}, analysis.warnings, context)
    write_text(out / "report.html", page)
    write_text(out / "loss_curves.svg", curves_figure(fit))
    return analysis


def analysis_files(folder: RunFolder) -> list[Path]:
    """What analyze wrote, for a tracker: the page and the figure first."""
    return [folder.path / name for name in FILES if (folder.path / name).exists()]


def analyze_file(
    path: Path, *, scales: tuple[str, ...], tuned: tuple[str, ...], loss: str, targets: Path, out: Path
) -> Analysis:
    """Analyzes a table of anybody's runs.

    Raises:
        ConfigError: the table or the targets cannot be used, or nothing can be written to `out`.
        FitError: no law can be fitted.
    """
    columns = Columns(scales=scales, tuned=tuned, loss=loss)
    table = load_table(path, columns)
    make_writable(out)
    return analyze_table(table, columns, load_targets(targets, scales), out, Context(title=path.name))


def analyze_run(folder: RunFolder, *, targets: Path | None = None) -> Analysis:
    """Writes a run's records.csv, then analyzes that file with the columns that the sweep declares.

    Raises:
        RunFolderError: the sweep has not been started.
        FitError: no law can be fitted.
    """
    if not folder.target.exists():
        raise RunFolderError(f"{folder.path} has no trials yet; start it with `hptransfer sweep`")
    target = read_json(folder.target, *TARGET_KEYS)
    records = run_records(folder, target)
    path = folder.path / "records.csv"
    write_text(path, records.to_csv(index=False))
    if records.empty or not records["state"].isin([DONE, DIVERGED]).any():
        raise FitError(f"{folder.path} has no finished trial; nothing can be fitted yet")
    columns = Columns(scales=tuple(target["scales"]), tuned=tuple(target["tuned"]))
    wanted = load_targets(targets, columns.scales) if targets else pd.DataFrame([target["target"]])
    if {axis: wanted.iloc[0][axis] for axis in columns.scales} != target["target"]:
        target = {**target, "groups": None, "flops": None}  # they are another target's
    return analyze_table(load_table(path, columns), columns, wanted, folder.path, _context(folder, target, records))


def _context(folder: RunFolder, target: Mapping[str, Any], records: pd.DataFrame) -> Context:
    verification = read_json(folder.verification, "scale") if folder.verification.exists() else None
    if verification and verification["scale"] != target["target"]:
        verification = None  # of a target that the run had before
    failed = records[records["state"] == FAILED]
    names = [describe({axis: row[axis] for axis in target["scales"]}) for _, row in failed.iterrows()]
    return Context(
        title=target["name"],
        target=target,
        verification=verification,
        states={str(state): int(count) for state, count in records["state"].value_counts().items()},
        failed=Counter(names),
        warnings=_unfinished(records),
        flops=float(records.loc[records["state"] != "waiting", "flops"].sum()),
    )


def _unfinished(records: pd.DataFrame) -> list[str]:
    waiting = int((records["state"] == WAITING).sum())
    return [f"{waiting} of {len(records)} trials are not finished: this is not the last word"] if waiting else []


def export(folder: RunFolder, describe_target: Callable[[Mapping[str, float]], Mapping[str, Any]]) -> dict[str, Any]:
    """The answer for a trainer's configuration: values with intervals, and resolved parameter groups.

    Args:
        describe_target: gives the settings of a scale other than the run's own target, for which a
            prediction may have been asked.

    Raises:
        RunFolderError: the run has no prediction yet.
    """
    if not folder.prediction.exists():
        raise RunFolderError(f"{folder.path} has no prediction yet; run `hptransfer analyze {folder.path}`")
    prediction = read_json(folder.prediction, "target", "hyperparameters")
    target: Mapping[str, Any] = read_json(folder.target, *TARGET_KEYS)
    if target["target"] != prediction["target"]:
        target = describe_target(prediction["target"])
    values = {name: found["value"] for name, found in prediction["hyperparameters"].items()}
    settings = predicted_settings(target, values)
    answer = {"target": prediction["target"], "hyperparameters": prediction["hyperparameters"]}
    if "command" in target:  # a script's: its names, and the command that they make
        return answer | predicted_command(target, settings)
    return {
        **answer,
        "parameterization": target["parameterization"],
        "decay": target["decay"],
        "branch_multiplier": resolved_branch(target, settings),
        "groups": resolved_groups(target, settings),
    }


def _warnings(table: pd.DataFrame, loss: str, predictions: pd.DataFrame) -> list[str]:
    notes = []
    far = float(predictions["distance"].max())
    if far > FAR_OCTAVES:
        notes.append(f"the target lies {far:.1f} octaves beyond the largest scale: a straight law is a leap there")
    # 0 of a run that was imported without them.
    known = table.loc[np.isfinite(table[loss]) & (table["steps"] > 0), "steps"] if "steps" in table else []
    if len(known) and (steps := min(known)) < FEW_STEPS:
        notes.append(f"some runs have only {int(steps)} steps: their optimum says little of long training")
    return notes


def _optima(fit: Fit) -> pd.DataFrame:
    name = fit.columns.tuned_one
    rows = []
    for one in fit.optima:
        value = 2.0**one.x if math.isfinite(one.x) else math.nan
        rows.append(
            {
                **one.cell.axes,
                name: value,
                f"log2_{name}": one.x,
                f"log2_{name}_se": one.se,
                "curvature": one.curvature,
                "loss": one.loss,
                "runs": one.cell.runs,
                "diverged": one.cell.diverged,
                "status": one.status,
            }
        )
    return pd.DataFrame(rows)


def _fit_json(analysis: Analysis) -> dict[str, Any]:
    fit = analysis.fit
    target = {axis: float(analysis.predictions.iloc[0][axis]) for axis in fit.columns.scales}
    loss = float(analysis.predictions.iloc[0]["loss"])
    exponents = {}
    for axis, exponent in fit.exponents.items():
        cost = unmoved_cost(fit, axis, target)
        exponents[axis] = {
            "value": exponent.value,
            "low": exponent.low,
            "high": exponent.high,
            "se": exponent.se,
            "verdict": exponent.verdict,
            "unmoved_cost_nats": cost,
            "unmoved_cost_percent": 100 * cost / loss,
        }
    law = fit.law
    return {
        "hyperparameters": {
            fit.columns.tuned_one: {
                "exponents": exponents,
                "reference": dict(law.design.reference),
                "log2_at_reference": float(law.coefficients[0]),
                "scatter_octaves": law.scatter,
                "noise_nats": fit.noise,
            }
        },
        "held_out": vars(analysis.held_out),
        "warnings": analysis.warnings,
    }


def _prediction_json(analysis: Analysis) -> dict[str, Any]:
    fit, row = analysis.fit, analysis.predictions.iloc[0]
    name = fit.columns.tuned_one
    interval = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    loss = {"value": "loss", "low": "loss_low", "high": "loss_high"}
    return {
        "target": {axis: _plain(row[axis]) for axis in fit.columns.scales},
        "hyperparameters": {name: {key: float(row[column]) for key, column in interval.items()}},
        "loss": {key: float(row[column]) for key, column in loss.items()},
        "distance": float(row["distance"]),
    }


def _plain(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
