"""Sources of tables: CSV, parquet, JSON, exports of W&B and Optuna, MLflow.

Of a large file only columns that are used or that always cause warnings are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.analysis.tables.mlflow_tables import read_experiment
from hptransfer.analysis.tables.quantities import SCHEDULE_NAMES, quantity_of
from hptransfer.analysis.tables.run_records import UNFINISHED
from hptransfer.analysis.tables.table_checks import (
    check_numbers,
    check_table,
    check_unique,
    first_row,
    unknown_column,
)
from hptransfer.analysis.tables.table_files import open_table
from hptransfer.core.bracketing import LARGEST_VALUE, SMALLEST_VALUE
from hptransfer.core.errors import ConfigError, nearest
from hptransfer.core.records import DIVERGED, DONE, FAILED, PRUNED, short

MOST_TARGETS = 1_000
# Upper limits of a file's bytes and columns up to which all of its columns are read.
LARGEST_READ_WHOLE, MOST_READ_WHOLE = 50_000_000, 300
# Separator in the names of all columns but the first of a chart that W&B exports, and ends of these names.
CHART_SEPARATOR, CHART_BOUNDS = " - ", ("__MIN", "__MAX")
# Prefixes under which other tools export a column: Optuna, W&B, MLflow.
PREFIXES = ("params_", "user_attrs_", "config/", "config.", "params.", "metrics.", "summary/", "summary.")
# Other names of a loss, a seed and a state in such exports.
OTHER_NAMES = {"loss": ("value", "values_0"), "state": ("State", "status", "Status"), SEED: ("Seed",)}
# States of other tools, with the state of a run folder that they mean.
STATE_WORDS = {
    **dict.fromkeys(("done", "finished", "complete", "completed", "success"), DONE),
    **dict.fromkeys(("diverged",), DIVERGED),
    "pruned": PRUNED,
    **dict.fromkeys(("failed", "fail", "crashed", "killed", "preempted", "cancelled", "canceled"), FAILED),
    **{word: word for word in (UNFINISHED, "running", "pending", "queued", "scheduled", "preempting")},
}
# Values that a message names.
WORDS_IN_MESSAGE = 4
USEFUL = ("flops", "steps", SEED, "state", *SCHEDULE_NAMES)


@dataclass(frozen=True)
class TableSource:
    """Location of a table of runs.

    Attributes:
        path: a file; None for `mlflow`, a URI, and `experiment`, a name.
        names: columns of the table by the names that they are analyzed under.
    """

    path: Path | None = None
    mlflow: str | None = None
    experiment: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title of the report."""
        return self.path.name if self.path else str(self.experiment)

    @property
    def location(self) -> str:
        """Location as messages name it."""
        return str(self.path) if self.path else f"experiment {self.experiment!r}"

    def read(self, columns: Columns) -> pd.DataFrame:
        """Read the table and rename its columns; check_table checks the values.

        Raises:
            ConfigError: the table is missing, unreadable or too large, or lacks a column.
        """
        required = [*columns.scales, *columns.tuned, columns.loss]
        if self.path is None:
            frame = read_experiment(str(self.mlflow), str(self.experiment))
            names = self._matched(frame.columns, required)
            names |= _other_columns(list(map(str, frame.columns)), names)
        else:
            header, rows = open_table(self.path)
            names = self._matched(header, required)
            check_unique(self.location, header, names.values())
            if self.path.stat().st_size <= LARGEST_READ_WHOLE:
                names |= _other_columns(header, names)
            frame = rows(sorted(set(names.values())))
        frame = frame[list(names.values())].set_axis(list(names), axis=1)
        if "state" in self.names and not _has_words(frame["state"]):
            raise ConfigError(
                f"{self.location}: --columns state={self.names['state']}: a column of numbers does not say which runs "
                f"finished; use words ({_known_words()}), or leave it out of --columns to count every row"
            )
        return canonical_states(frame, self.location, names.get("state", "state"))

    def _matched(self, columns: Iterable[str], required: list[str]) -> dict[str, str]:
        """Return the table's column for each name.

        It is the one given by --columns, the one of that name, or the name under which other tools export it.
        """
        names = list(map(str, columns))
        for name, column in self.names.items():
            if column not in names:
                raise ConfigError(f"{self.location}: --columns {name}={column}: {unknown_column(column, names)}")
        matched = {}
        for name in (*required, *USEFUL, *(name for name in names if quantity_of(name) == "batch")):
            candidates = [self.names.get(name, name), *(prefix + name for prefix in PREFIXES)]
            candidates += OTHER_NAMES.get("loss" if name == required[-1] else name, ())
            match = next((column for column in candidates if column in names), None)
            if match is not None:
                matched[name] = match
            elif name in required:
                way_out = _rename(name, names, required[-1])
                raise ConfigError(f"{self.location}: {_unknown_column(name, names)}{way_out}")
        return matched


def _unknown_column(name: str, names: Sequence[str]) -> str:
    """Return the message of a missing column.

    It mentions a column with a comma in its name, which options cannot name because commas separate names there.
    """
    if chart := chart_column(names):
        return (
            f"it is W&B's export of a chart, with a column for each run, such as {chart!r}, and a row for each step; "
            "export the table of runs instead (the project's Runs page, the download button, CSV), which has a row for "
            "each run with its configuration and its last metrics"
        )
    with_comma = next((column for column in names if name in column.split(",")[:-1]), None)
    hint = f"; column {with_comma!r} has a comma in its name, which must be renamed in the table" if with_comma else ""
    return unknown_column(name, names) + hint


def _rename(name: str, names: Sequence[str], loss: str) -> str:
    """Return the option that names a missing column; blank without one."""
    if chart_column(names):
        return ""
    proposed = nearest(name, names)
    column = proposed if proposed and "," not in proposed else "COLUMN"
    return f"; give --loss {column}" if name == loss else f"; give --columns {name}={column}"


def chart_column(names: Sequence[str]) -> str | None:
    """Return a run's column of a chart that W&B exported.

    Other tables have none. The export has the chart's x axis, whatever it is, and `RUN - METRIC` for each run, often
    with `__MIN` and `__MAX`.
    """
    series = [name for name in names[1:] if CHART_SEPARATOR in name]
    if not series or len(series) < len(names) - 1:
        return None
    return next((name for name in series if not name.endswith(CHART_BOUNDS)), series[0])


def _other_columns(header: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the other columns of a table, unless there are very many.

    Runs of several experiments may differ in them.

    Args:
        names: columns that are used, by the names that they are analyzed under.
    """
    if len(header) > MOST_READ_WHOLE:
        return {}
    taken = {*names, *names.values()}
    return {name: name for name in header if name and name not in taken and header.count(name) == 1}


def canonical_states(frame: pd.DataFrame, location: str, column: str = "state") -> pd.DataFrame:
    """Return the table with a run folder's states in its `state` column.

    A column of numbers, such as exit codes, is dropped: numbers are not states. A table without the column is returned
    unchanged.

    Args:
        column: name of the column in the table itself, for messages.

    Raises:
        ConfigError: the column has an unknown state.
    """
    if "state" not in frame:
        return frame
    if not _has_words(frame["state"]):
        return frame.drop(columns="state")
    words = frame["state"].astype(object).fillna("").astype(str).str.strip().str.lower()
    if unknown_words := sorted({*words} - {*STATE_WORDS}):
        more = f" and {len(unknown_words) - WORDS_IN_MESSAGE} more" * (len(unknown_words) > WORDS_IN_MESSAGE)
        named = ", ".join(map(repr, unknown_words[:WORDS_IN_MESSAGE])) + more
        raise ConfigError(
            f"{location}: column {column!r} says which runs finished, got {named} in "
            f"{first_row(words[words == unknown_words[0]])}; known: {_known_words()}; "
            "write one of these there, or rename the column to count every row"
        )
    return frame.assign(state=words.map(STATE_WORDS))


def _has_words(column: pd.Series[Any]) -> bool:
    return bool((pd.to_numeric(column, errors="coerce").isna() & column.notna()).any())


def _known_words() -> str:
    return ", ".join(sorted(STATE_WORDS))


def load_table(path: Path, columns: Columns) -> pd.DataFrame:
    """Read and check a file of runs.

    Raises:
        ConfigError: the file or a column is missing, empty or faulty.
    """
    return check_table(TableSource(path).read(columns), columns, str(path))


def read_table(path: Path) -> pd.DataFrame:
    """Read all columns of a CSV, parquet or JSON file, unchecked.

    Raises:
        ConfigError: the file is missing, empty, unreadable or too large.
    """
    header, rows = open_table(path)
    return rows(header)


def load_targets(path: Path, scales: tuple[str, ...]) -> pd.DataFrame:
    """Read the scales to predict for, one row each.

    Raises:
        ConfigError: the file or a column is missing, or a value is not above 0.
    """
    header, rows = open_table(path)
    for name in scales:
        if name not in header:
            raise ConfigError(f"{path}: {_unknown_column(name, header)}")
    check_unique(str(path), header, scales)
    frame = rows(list(scales))
    if len(frame) > MOST_TARGETS:
        raise ConfigError(
            f"{path} has {len(frame):,} rows, at most {MOST_TARGETS:,} targets are possible; leave some out"
        )
    return check_targets(frame, scales, str(path))


def check_targets(frame: pd.DataFrame, scales: Sequence[str], location: str) -> pd.DataFrame:
    """Return the scale columns of targets as numbers.

    Raises:
        ConfigError: a column is missing, or a value is not above 0.
    """
    for name in scales:
        if name not in frame:
            raise ConfigError(f"{location}: {unknown_column(name, map(str, frame.columns))}")
    checked = frame[list(scales)].copy()
    for name in scales:
        values = check_numbers(frame[name], name, location)
        if not len(values) or not values.between(SMALLEST_VALUE, LARGEST_VALUE).all():
            raise ConfigError(
                f"{location}: column {name!r} must have numbers above 0 in every row, from {short(SMALLEST_VALUE)} to "
                f"{short(LARGEST_VALUE)}"
            )
        checked[name] = pd.to_numeric(checked[name])
    return checked
