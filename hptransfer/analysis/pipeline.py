"""Pipeline of `analyze`: from records or a table to the written files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import ESTIMATOR, fit_table
from hptransfer.analysis.laws.forms import LAWS
from hptransfer.analysis.laws.runs_to_add import TooFewRunsError
from hptransfer.analysis.optima.estimators import ESTIMATORS
from hptransfer.analysis.predict.data_warnings import pooled_runs, table_warnings
from hptransfer.analysis.predict.findings import (
    decision_warnings,
    fit_json,
    optima_table,
    prediction_json,
    widening_warnings,
)
from hptransfer.analysis.predict.next_runs import next_runs, next_table
from hptransfer.analysis.predict.predictions import predict_table
from hptransfer.analysis.predict.sweep_command import sweep_command
from hptransfer.analysis.predict.validation import leave_one_out, rehearse, widened
from hptransfer.analysis.report.analysis import Analysis
from hptransfer.analysis.report.comparison import ComparedSweep
from hptransfer.analysis.report.exports import FORMATS, earlier_files, remove_stale, write_formats
from hptransfer.analysis.report.figures import curves_figure
from hptransfer.analysis.report.page import render
from hptransfer.analysis.report.run_context import RunContext
from hptransfer.analysis.report.target_groups import (
    has_group_rules,
    predicted_command,
    predicted_settings,
    resolved_branch,
    resolved_groups,
)
from hptransfer.analysis.tables.columns import TABLE_STEP, Columns, run_columns
from hptransfer.analysis.tables.run_records import UNFINISHED, run_records
from hptransfer.analysis.tables.sources import TableSource, load_table, load_targets
from hptransfer.analysis.tables.table_checks import check_table, unused_rows
from hptransfer.core.errors import ConfigError, FitError, RunFolderError, unknown
from hptransfer.core.io import read_json, writable_folder, write_json, write_text
from hptransfer.core.records import DIVERGED, DONE, FAILED, Objective, Scale, short
from hptransfer.core.run_folder import RunFolder

FILES = (
    "report.html",
    "loss_curves.svg",
    "prediction.json",
    "predictions.csv",
    "next.csv",
    "fit.json",
    "optima.csv",
    "records.csv",
)
# Trials that a warning names.
TRIALS_NAMED = 4
# Keys of target.json that an analysis needs; the driver writes it.
TARGET_KEYS = (
    "name",
    "scales",
    "tuned",
    "target",
    "params",
    "flops",
    "decay",
    "branch_multiplier",
    "complement",
    "groups",
    "fingerprint",
    "parameterization",
)


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """Options of an analysis.

    Attributes:
        estimator: a member of analysis.optima.estimators; None: the one of the run's sweep file, else the surface.
        laws: members of analysis.laws.forms; empty: those of the run's sweep file, else all default ones.
        formats: members of FORMATS to write besides the page.
        prior: use priors from published studies, inferred from column names; if False, uninformative priors.
    """

    estimator: str | None = None
    laws: Sequence[str] = ()
    formats: Sequence[str] = ()
    prior: bool = True

    @classmethod
    def of(cls, estimator: str | None, laws: str | None, formats: str, *, prior: bool) -> AnalysisOptions:
        """Return the options of the command line.

        Args:
            laws, formats: names, separated by commas.

        Raises:
            ConfigError: an estimator, law or format is unknown.
        """
        law_names = tuple(laws.split(",")) if laws else ()
        format_names = tuple(filter(None, formats.split(",")))
        for name in format_names:
            if name not in FORMATS:
                raise ConfigError(f"--format: {unknown('format', name, FORMATS)}")
        return cls(estimator=estimator, laws=law_names, formats=format_names, prior=prior).checked()

    def checked(self) -> AnalysisOptions:
        """Raise ConfigError if the estimator or a law is unknown."""
        for name in self.laws:
            LAWS.get(name)
        ESTIMATORS.get(self.estimator or ESTIMATOR)
        return self

    def of_run(self, target: Mapping[str, Any]) -> AnalysisOptions:
        """Return these options, completed by those of the run's sweep file.

        Args:
            target: content of target.json.
        """
        estimator, laws = self.estimator or target.get("estimator"), self.laws or tuple(target.get("laws", ()))
        return replace(self, estimator=estimator, laws=laws).checked()


DEFAULT_OPTIONS = AnalysisOptions()


def analyze_table(
    table: pd.DataFrame,
    columns: Columns,
    targets: pd.DataFrame,
    out: Path,
    context: RunContext,
    options: AnalysisOptions = DEFAULT_OPTIONS,
    against: ComparedSweep | None = None,
) -> Analysis:
    """Fit a checked table and write the files of the analysis.

    These are FILES without records.csv. Exports of an earlier analysis that are not written again are removed.

    Raises:
        FitError: no law can be fitted.
    """
    analysis = fit_and_predict(table, columns, targets, options, context.uncounted, context.warnings)
    page = render(analysis, context, against)
    write_text(out / "optima.csv", optima_table(analysis.fit).to_csv(index=False))
    write_text(out / "next.csv", next_table(analysis.fit, analysis.next_runs).to_csv(index=False))
    write_text(out / "predictions.csv", analysis.predictions.to_csv(index=False))
    write_json(out / "prediction.json", {**prediction_json(analysis), **_fingerprints(context.target or {})})
    write_text(out / "report.html", page)
    write_text(out / "loss_curves.svg", curves_figure(analysis.fit))
    earlier, written = earlier_files(out), write_formats(analysis, out, options.formats)
    remove_stale(out, earlier, written)
    write_json(
        out / "fit.json", {**fit_json(analysis), "files": written}
    )  # last: it lists the exports of the earlier analysis until then
    return analysis


def fit_and_predict(
    table: pd.DataFrame,
    columns: Columns,
    targets: pd.DataFrame,
    options: AnalysisOptions,
    uncounted: Mapping[str, int],
    notes: Sequence[str] = (),
) -> Analysis:
    """Fit a checked table and predict for checked targets.

    Args:
        uncounted: number of rows that are not used, by their state (`unused_rows`).
        notes: warnings to show before those of the fit.

    Raises:
        FitError: no law can be fitted.
    """
    tuned, fixed = _tuned_and_fixed(table, columns)
    columns = replace(columns, prior=options.prior, tuned=tuned)
    known_warnings = [*notes, *_fixed_warnings(fixed), *table_warnings(table, columns, targets)]
    try:
        fit = fit_table(table, columns, estimator=options.estimator or ESTIMATOR, laws=options.laws)
        rehearsal = rehearse(fit)
        fit = widened(fit, rehearsal)
        predictions = predict_table(fit, targets).assign(**fixed)
    except FitError as error:
        error.warnings = known_warnings
        error.note = pooled_runs(table, columns)
        raise
    notes_of_fit = [*fit.warnings, *decision_warnings(fit, predictions.iloc[0]), *widening_warnings(fit)]
    warnings = [*known_warnings, *notes_of_fit]
    first = {axis: float(predictions.iloc[0][axis]) for axis in columns.scales}
    return Analysis(
        fit=fit,
        leave_one_out=leave_one_out(fit),
        larger_from_smaller=list(itertools.chain.from_iterable(rehearsal)),
        predictions=predictions,
        next_runs=next_runs(fit, first),
        warnings=warnings,
        uncounted=uncounted,
        fixed=fixed,
    )


def _tuned_and_fixed(table: pd.DataFrame, columns: Columns) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the tuned columns that vary, and the values of the others.

    If none varies, all of them count as tuned, and the fit says what is missing.
    """
    varying = tuple(name for name in columns.tuned if table[name].nunique() > 1)
    if not varying:
        return columns.tuned, {}
    return varying, {name: float(table[name].iloc[0]) for name in columns.tuned if name not in varying}


def _fixed_warnings(fixed: Mapping[str, float]) -> list[str]:
    return [
        f"{name} is {short(value)} in all runs: it is kept there, and nothing is known of other values"
        for name, value in fixed.items()
    ]


def analysis_files(folder: RunFolder) -> list[Path]:
    """Return the files that analyze wrote, the page and the figure first."""
    return [folder.path / name for name in FILES if (folder.path / name).exists()]


def analyze_source(
    source: TableSource,
    *,
    scales: tuple[str, ...],
    tuned: tuple[str, ...],
    loss: str,
    targets: Path | Mapping[str, float] | None,
    out: Path,
    goal: str | None = None,
    unit: str | None = None,
    options: AnalysisOptions = DEFAULT_OPTIONS,
) -> Analysis:
    """Analyze a table of runs from any source.

    Args:
        targets: a table of scales, or one scale; None for the largest scale of the runs.
        goal: minimize or maximize; None minimizes a loss.
        unit: of the loss, such as nats; None for none.

    Raises:
        ConfigError: the table or the targets are faulty, or `out` cannot be written.
        FitError: no law can be fitted.
    """
    objective = Objective.of(loss, goal, unit, "--goal")
    columns = Columns(scales=scales, tuned=tuned, loss=loss, objective=objective, step=TABLE_STEP)
    target_table = load_targets(targets, scales) if isinstance(targets, Path) else None
    frame = source.read(columns)
    table = check_table(frame, columns, source.location)
    if target_table is None:
        target_table = pd.DataFrame([targets or largest_scale(table, scales)])
    with writable_folder(out):
        context = RunContext(title=source.title, uncounted=unused_rows(frame))
        return analyze_table(table, columns, target_table, out, context, options)


def largest_scale(table: pd.DataFrame, scales: Sequence[str]) -> dict[str, float]:
    """Return the scale with the largest product of its axes."""
    row = np.log2(table[list(scales)].to_numpy(dtype=float)).sum(axis=1).argmax()
    return {axis: table[axis].iloc[row] for axis in scales}


def analyze_file(
    path: Path, *, scales: tuple[str, ...], tuned: tuple[str, ...], loss: str, targets: Path, out: Path
) -> Analysis:
    """Analyze a CSV, parquet or JSON file, with the errors of analyze_source."""
    return analyze_source(TableSource(path), scales=scales, tuned=tuned, loss=loss, targets=targets, out=out)


def analyze_run(
    folder: RunFolder,
    *,
    targets: Path | Mapping[str, float] | None = None,
    options: AnalysisOptions = DEFAULT_OPTIONS,
    against: RunFolder | None = None,
) -> Analysis:
    """Write a run's records.csv and analyze it with the sweep's columns.

    Args:
        targets: a table of scales, or one scale; axes that it lacks, or None, are those of the sweep's target.
        against: another run to compare with this one on the page.

    Raises:
        RunFolderError: the sweep has not been started.
        FitError: no law can be fitted.
    """
    target = _read_target(folder)
    records = run_records(folder, target)
    path = folder.path / "records.csv"
    write_text(path, records.to_csv(index=False))
    if records.empty or not records["state"].isin([DONE, DIVERGED]).any():
        raise FitError(f"{folder.path} has no finished trial; nothing can be fitted yet")
    columns = run_columns(target)
    of_file = load_targets(targets, columns.scales) if isinstance(targets, Path) else None
    one = {**target["target"], **(targets if isinstance(targets, Mapping) else {})}
    target_table = pd.DataFrame([one]) if of_file is None else of_file
    if {axis: target_table.iloc[0][axis] for axis in columns.scales} != target["target"]:
        target = {**target, "groups": None, "flops": None}  # those belong to the sweep's own target
    context = _context(folder, target, records)
    if target["groups"] and not has_group_rules(target):
        note = f"{folder.target} is of version 0.1, without rules of parameter groups; `hptransfer sweep` adds them"
        context = replace(context, target={**target, "groups": None}, warnings=[*context.warnings, note])
    table = load_table(path, columns)
    options = options.of_run(target)
    compared = None
    if against:
        path, other_path = folder.path.resolve(), against.path.resolve()
        distinct = path.name != other_path.name
        names = (path.name, other_path.name) if distinct else (str(path), str(other_path))
        compared = ComparedSweep(*names, _analysis_to_compare(against, target_table, options))
    try:
        return analyze_table(table, columns, target_table, folder.path, context, options, compared)
    except TooFewRunsError as error:
        error.command = sweep_command(folder, records, columns, error.added) or error.command
        raise


def target_axes(folder: RunFolder) -> list[str]:
    """Return the names of a run's scale axes.

    Raises:
        RunFolderError: the sweep has not been started.
    """
    return list(_read_target(folder)["scales"])


def _read_target(folder: RunFolder) -> dict[str, Any]:
    if not folder.target.exists():
        raise RunFolderError(f"{folder.path} has no trials yet; start it with `hptransfer sweep`")
    return dict(read_json(folder.target, *TARGET_KEYS))


def _analysis_to_compare(folder: RunFolder, target_table: pd.DataFrame, options: AnalysisOptions) -> Analysis:
    """Analyze a run for a comparison, without writing files."""
    target = read_json(folder.target, *TARGET_KEYS)
    columns = run_columns(target)
    if missing := [axis for axis in columns.scales if axis not in target_table]:
        raise FitError(f"{folder.path} has an axis {missing[0]} that this run has not; the two cannot be compared")
    records = run_records(folder, target)
    table = check_table(records, columns, str(folder.path))
    return fit_and_predict(table, columns, target_table, options, unused_rows(records))


def _context(folder: RunFolder, target: Mapping[str, Any], records: pd.DataFrame) -> RunContext:
    verification = read_json(folder.verification, "scale") if folder.verification.exists() else None
    if verification and verification["scale"] != target["target"]:
        verification = None  # of an earlier target
    failed = records[records["state"] == FAILED]
    keys = [Scale({axis: float(row[axis]) for axis in target["scales"]}).key for _, row in failed.iterrows()]
    return RunContext(
        title=target["name"],
        target=target,
        verification=verification,
        states={str(state): int(count) for state, count in records["state"].value_counts().items()},
        failed=Counter(keys),
        uncounted=unused_rows(records),
        warnings=[*_version_warnings(target), *_unfinished(records), *_without_result(folder, records)],
        flops=float(records.loc[records["state"] != "waiting", "flops"].sum()),
    )


def _fingerprints(target: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fingerprints of a run's versions; empty for one version."""
    earlier = [version["fingerprint"] for version in target.get("earlier_fingerprints", [])]
    return {"fingerprints": [*earlier, target["fingerprint"]]} if earlier else {}


def _version_warnings(target: Mapping[str, Any]) -> list[str]:
    earlier = [
        f"{version['fingerprint']} (the first {version['trials']} trials)"
        for version in target.get("earlier_fingerprints", [])
    ]
    if not earlier:
        return []
    return [
        f"trials of several versions of the script are fitted together, as --accept-changed was given: fingerprints "
        f"{', '.join(earlier)} and {target['fingerprint']}"
    ]


def _unfinished(records: pd.DataFrame) -> list[str]:
    waiting = int((records["state"] == UNFINISHED).sum())
    return [f"{waiting} of {len(records)} trials are not finished: these results are preliminary"] if waiting else []


def _without_result(folder: RunFolder, records: pd.DataFrame) -> list[str]:
    """Return a warning that names the trials without a result."""
    named: dict[str, list[str]] = {}
    for trial_id in records.loc[records["state"].isin([DIVERGED, FAILED]), "trial"]:
        outcome = folder.read_outcome(trial_id)
        if outcome is not None and outcome.missing is not None:
            trial = folder.read_trial(trial_id)
            named.setdefault(outcome.state, []).append(f"{trial.name} ({outcome.missing})")
    return [
        f"{len(trials)} trial{'s' * (len(trials) > 1)} without a result count{'s' * (len(trials) == 1)} as {state}: "
        f"{'; '.join(trials[:TRIALS_NAMED])}"
        + (f"; and {len(trials) - TRIALS_NAMED} more" if len(trials) > TRIALS_NAMED else "")
        for state, trials in named.items()
    ]


def export(folder: RunFolder, describe_target: Callable[[Mapping[str, float]], Mapping[str, Any]]) -> dict[str, Any]:
    """Return the prediction for a trainer's configuration.

    It has the tuned values with their intervals, and the resolved parameter groups or the command.

    Args:
        describe_target: function that returns the content of target.json for a scale. It is called for another scale
            than the run's own target, or if version 0.1 wrote target.json.

    Raises:
        RunFolderError: the run has no prediction yet.
    """
    if not folder.prediction.exists():
        raise RunFolderError(f"{folder.path} has no prediction yet; run `hptransfer analyze {folder.path}`")
    prediction = read_json(folder.prediction, "target", "hyperparameters")
    target: Mapping[str, Any] = read_json(folder.target, *TARGET_KEYS)
    if target["target"] != prediction["target"] or not has_group_rules(target):
        target = describe_target(prediction["target"])
    values = {name: interval["value"] for name, interval in prediction["hyperparameters"].items()}
    settings = predicted_settings(target, values)
    answer = {"target": prediction["target"], "hyperparameters": prediction["hyperparameters"]}
    answer |= {"fingerprints": prediction["fingerprints"]} if "fingerprints" in prediction else {}
    if "command" in target:  # the trials run a script: its names and its command
        return answer | predicted_command(target, settings)
    return {
        **answer,
        "parameterization": target["parameterization"],
        "decay": target["decay"],
        "branch_multiplier": resolved_branch(target, settings),
        "groups": resolved_groups(target, settings),
    }
