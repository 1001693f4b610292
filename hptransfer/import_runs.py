"""Import of earlier runs: rows of a table become finished trials."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.columns import SEED
from hptransfer.analysis.tables.run_records import UNFINISHED
from hptransfer.analysis.tables.sources import read_table
from hptransfer.analysis.tables.table_checks import unknown_column
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.io import append_jsonl, write_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, LOG_ESTIMATORS, PRUNED, Number, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import Plan

# Relative distance within which a value is one of the sweep's: tables round.
SAME_VALUE = 1e-4


@dataclass(frozen=True)
class Imported:
    """Numbers of added rows, and of rows whose trial existed already."""

    added: int
    existing: int

    def summary(self) -> str:
        """Return one line for the terminal."""
        kept = f"; {self.existing} existed already and stay as they are" if self.existing else ""
        return f"{self.added} trials imported{kept}"


def read_rows(
    plan: Plan, path: Path, *, columns: Mapping[str, str], loss: str, trust: bool
) -> list[tuple[Trial, Outcome]]:
    """Return the rows of a table as finished trials.

    One unusable row refuses them all.

    Args:
        columns: the table's column for each name of the sweep that differs.
        loss: the column of the loss that trials are compared by.
        trust: the user's word that the runs had this sweep's settings, which cannot be checked.

    Raises:
        ConfigError: the table, a column or a row cannot be used.
    """
    if not plan.runner.sweeps_names and not trust:
        raise ConfigError(
            "these runs cannot be checked for the settings of this sweep; if they were trained with them, give --trust"
        )
    rows = list(_trials_of_rows(plan, path, columns, loss))
    ids = Counter(trial.id for trial, _ in rows)
    for trial, outcome in rows:
        if ids[trial.id] > 1:
            raise ConfigError(
                f"{outcome.imported}: {trial.name} is in the table {ids[trial.id]} times; leave one of them"
            )
    return rows


def import_rows(folder: RunFolder, rows: Sequence[tuple[Trial, Outcome]]) -> Imported:
    """Write the trials that have no outcome yet."""
    new_rows = [(trial, outcome) for trial, outcome in rows if not folder.outcome_path(trial.id).exists()]
    for trial, outcome in new_rows:
        folder.write_trial(trial)
        folder.curve_path(trial.id).unlink(missing_ok=True)
        append_jsonl(
            folder.curve_path(trial.id),
            [{"step": outcome.steps, "tokens": None, "loss": outcome.loss, "time": time.time()}],
        )
        write_json(folder.outcome_path(trial.id), outcome.to_json())
    return Imported(len(new_rows), len(rows) - len(new_rows))


def _trials_of_rows(plan: Plan, path: Path, columns: Mapping[str, str], loss: str) -> Iterator[tuple[Trial, Outcome]]:
    frame = read_table(path)
    axes, tuned = list(plan.config.grid), list(plan.config.space)
    for name in columns:
        if name not in (*axes, *tuned, SEED):
            raise ConfigError(f"--columns: {unknown('name', name, (*axes, *tuned, SEED))}")
    column_of = {name: columns.get(name, name) for name in (*axes, *tuned)} | {"loss": loss}
    has_seeds = SEED in columns or SEED in frame.columns
    if has_seeds:
        column_of[SEED] = columns.get(SEED, SEED)
    for name, column in column_of.items():
        if column not in frame.columns:
            hint = f"give --columns {name}=COLUMN" if name != "loss" else "give --loss COLUMN"
            raise ConfigError(f"{path}: {unknown_column(column, map(str, frame.columns))}; {hint}")
    repeats: Counter[tuple[Number, ...]] = Counter()
    for index, row in enumerate(frame.to_dict(orient="records")):
        row_name = f"{path.name} row {index + 1}"
        if row.get("state") in (PRUNED, FAILED, UNFINISHED):  # of another run's records.csv
            continue
        if row.get("state") == DIVERGED:
            row[loss] = math.inf
        values = {name: _cell_number(row[column], column, row_name) for name, column in column_of.items()}
        scale = _scale(plan, {axis: values[axis] for axis in axes}, row_name)
        point = {key: _tuned(plan, key, values[key], row_name) for key in tuned}
        point_of_scale = (*scale.axes.values(), *point.values())
        seed = _seed(values[SEED], row_name) if has_seeds else _nth_seed(plan, repeats[point_of_scale])
        repeats[point_of_scale] += 1
        trial = plan.trial(scale, point, seed)
        yield trial, _outcome(plan, values["loss"], _steps(row), row_name)


def _cell_number(value: Any, column: str, row_name: str) -> float:
    if pd.isna(value):
        raise ConfigError(
            f"{row_name}: column {column!r} has no value; leave the row out (inf is the loss of a diverged run)"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{row_name}: column {column!r} must be a number, got {value!r}") from None


def _scale(plan: Plan, axes: Mapping[str, float], row_name: str) -> Scale:
    for scale in plan.scales:
        if all(canonical(scale.axes[axis]) == canonical(value) for axis, value in axes.items()):
            return scale
    row_scale = Scale({axis: int(value) if value == value // 1 else value for axis, value in axes.items()}).key
    planned = "; ".join(scale.key for scale in plan.scales[:4]) + ("; ..." if len(plan.scales) > 4 else "")
    raise ConfigError(
        f"{row_name}: {row_scale} is not a scale of the sweep ({planned}); add it under grid, or leave the row out"
    )


def _tuned(plan: Plan, key: str, value: float, row_name: str) -> float:
    if not 0 < value <= plan.config.space[key].largest or math.isinf(value):
        raise ConfigError(f"{row_name}: {key} must be above 0 and finite, got {value:g}")
    planned = plan.config.space[key].grid(f"space.{key}")
    return next(
        (planned_value for planned_value in planned if math.isclose(planned_value, value, rel_tol=SAME_VALUE)),
        canonical(value),
    )


def _seed(value: float, row_name: str) -> int:
    if value < 0 or value != value // 1:
        raise ConfigError(f"{row_name}: {SEED} must be a whole number, at least 0, got {value:g}")
    return int(value)


def _nth_seed(plan: Plan, number: int) -> int:
    """Return the seed of a repeat that gives none.

    The sweep's seeds come in turn, then further ones.
    """
    seeds = plan.seeds
    return seeds[number] if number < len(seeds) else max(seeds) + 1 + number - len(seeds)


def _steps(row: Mapping[Any, Any]) -> int:
    steps = row.get("steps")
    return int(steps) if isinstance(steps, int | float) and math.isfinite(steps) else 0


def _outcome(plan: Plan, loss: float, steps: int, row_name: str) -> Outcome:
    if math.isinf(loss):
        return Outcome(state=DIVERGED, steps=steps, imported=row_name)
    if loss <= 0 and plan.config.estimator in LOG_ESTIMATORS:
        raise ConfigError(
            f"{row_name}: the loss must be above 0, as estimator={plan.config.estimator} compares its ratios or "
            f"logarithms, got {loss:g}"
        )
    return Outcome(state=DONE, loss=loss, steps=steps, imported=row_name)
