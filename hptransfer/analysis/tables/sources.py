"""Sources of tables: CSV, parquet, JSON, exports of W&B and Optuna, MLflow.

Of a large file only columns that are used or that always cause warnings are read, in parts. A table with too many rows
or with endless lines is refused before it fills the memory.
"""

from __future__ import annotations

import csv
import io
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.analysis.tables.json_tables import is_json, read_json_table
from hptransfer.analysis.tables.quantities import SCHEDULE_NAMES, quantity_of
from hptransfer.analysis.tables.run_records import UNFINISHED
from hptransfer.analysis.tables.table_checks import (
    check_numbers,
    check_table,
    check_unique,
    first_row,
    unknown_column,
)
from hptransfer.core.bracketing import LARGEST_VALUE, SMALLEST_VALUE
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.records import DIVERGED, DONE, FAILED, PRUNED, short

# Upper limit of the rows, more than any sweep has; their analysis takes 1 GB.
MOST_ROWS = 1_000_000
PART_ROWS = 200_000
MOST_TARGETS = 1_000
# Upper limit of a line, in bytes.
LONGEST_LINE = 1_000_000
# Upper limits of a file's bytes and columns up to which all of its columns are read.
LARGEST_READ_WHOLE, MOST_READ_WHOLE = 50_000_000, 300
# First column of a chart that W&B exports, the separator in the names of its other columns, and ends of these names.
CHART_AXES = ("Step", "_step", "Relative Time (Process)", "Relative Time (Wall)", "Wall Time", "global_step", "epoch")
CHART_SEPARATOR, CHART_BOUNDS = " - ", ("__MIN", "__MAX")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
# Separators of files that are not comma-separated.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
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
# By default MLflow sends telemetry and retries seven times, for minutes.
MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
# Values that a message names.
WORDS_IN_MESSAGE = 4
# Letters of an MLflow error that are shown.
LONGEST_REASON = 120
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
            frame = _experiment(str(self.mlflow), str(self.experiment))
            names = self._matched(frame.columns, required)
            names |= _other_columns(list(map(str, frame.columns)), names)
        else:
            header, rows = _opened(self.path)
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
                raise ConfigError(f"{self.location}: {_unknown_column(name, names)}")
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


def chart_column(names: Sequence[str]) -> str | None:
    """Return a run's column of a chart that W&B exported.

    Other tables have none. The export has the chart's x axis, and `RUN - METRIC` for each run, often with `__MIN` and
    `__MAX`.
    """
    series = [name for name in names[1:] if CHART_SEPARATOR in name]
    bounds = [name for name in series if name.endswith(CHART_BOUNDS)]
    if not series or len(series) < len(names) - 1:
        return None
    has_axis = names[0] in CHART_AXES or bool(bounds)
    return next((name for name in series if name not in bounds), series[0]) if has_axis else None


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


def _opened(path: Path) -> tuple[list[str], Callable[[list[str]], pd.DataFrame]]:
    """Return a file's columns and a function that reads some of them."""
    header = _header(path)
    if header is None:
        with _as_table(path):
            frame = read_json_table(path, MOST_ROWS)
        return list(map(str, frame.columns)), lambda columns: frame[columns]
    return header, partial(_read_rows, path)


def _header(path: Path) -> list[str] | None:
    """Return the names of the columns, with duplicates; None for JSON."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the path of a CSV, parquet or JSON file")
    if not path.exists():
        raise ConfigError(f"no table {str(path)!r}; give the path of a CSV, parquet or JSON file")
    if path.suffix in COMPRESSED:
        raise ConfigError(f"{path} is compressed; unpack it, and give the path of the file that was in it")
    if is_json(path):
        return None
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with _as_table(path):
            return list(pyarrow.parquet.read_schema(path).names)
    with _as_table(path), path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
        if b"\r" in line.rstrip(b"\r\n") and b'"' not in line:
            raise ValueError("its lines end with the character CR alone, not with LF")
        if len(line) == LONGEST_LINE:
            raise ValueError(f"its first line is longer than {LONGEST_LINE:,} bytes")
        text, first = line.decode("utf-8-sig"), file.readline(LONGEST_LINE).decode()
    if not text.strip():
        raise ConfigError(f"{path} is empty; a table needs a header and rows")
    if text.lstrip().startswith(("{", "[")):
        raise ConfigError(f"{path} holds JSON; give it a name that ends with .jsonl (a run on each line) or .json")
    if "," not in text and (used := next((separator for separator in SEPARATORS if separator in text), None)):
        raise ConfigError(f"{path} has its columns separated by {SEPARATORS[used]}; save it with commas, as CSV")
    with _as_table(path):
        names, row = (next(csv.reader([line]), []) for line in (text, first))
    if any(row[len(names) :]):  # such as 0,5 for 0.5, which would shift all columns
        raise ConfigError(f"{path} cannot be read as a table: its first row has more values than the header")
    return names


def _read_rows(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read columns of a file.

    Raises:
        ConfigError: the file cannot be read as a table, has too many rows, or a row of another length than the header.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with _as_table(path):
            if (rows := pyarrow.parquet.read_metadata(path).num_rows) > MOST_ROWS:
                raise ConfigError(_too_many(path, f"{rows:,}"))
            return pd.read_parquet(path, columns=columns)
    parts, rows = [], 0
    with (
        _as_table(path),
        warnings.catch_warnings(),
        _Lines(path) as file,
        pd.read_csv(file, usecols=columns, chunksize=PART_ROWS, index_col=False) as reader,
    ):
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # check_table names values that are not numbers
        for part in reader:
            rows += len(part)
            if rows > MOST_ROWS:
                raise ConfigError(_too_many(path, f"more than {MOST_ROWS:,}"))
            parts.append(part)
    _check_lengths(path)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _check_lengths(path: Path) -> None:
    """Raise ConfigError if a CSV row has another length than the header.

    pandas silently fills missing values of a line and drops additional ones.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # a cell may hold a whole configuration
    with _as_table(path), io.TextIOWrapper(io.BufferedReader(_Lines(path)), "utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if len(row) > 1 or "".join(row).strip())
        header = next(rows)
        most_values, fewest_values = len(header), 1 + max(index for index, name in enumerate(header) if name)
        for number, row in enumerate(rows, start=1):
            if len(row) < fewest_values or any(row[most_values:]):
                how = "fewer" if len(row) < fewest_values else "more"  # a line that was cut off, or 0,5 for 0.5
                raise ConfigError(
                    f"{path}: row {number} has {len(row)} values, {how} values than the header, which has "
                    f"{fewest_values}; complete the row or leave it out, and put a value that holds a comma in quotes"
                )


def _too_many(path: Path, rows: str) -> str:
    size = path.stat().st_size / 1e6
    shown = f"{size / 1e3:.1f} GB" if size > 100 else f"{size:.3g} MB"
    return f"{path} has {rows} rows ({shown}), at most {MOST_ROWS:,} are read; keep one row a run, not its curve"


class _Lines(io.RawIOBase):
    """A file that refuses endless lines, which pandas would hold in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._length = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer; raise ValueError if a line is too long."""
        count = self._file.readinto(buffer) or 0
        end = bytes(buffer[:count]).rfind(b"\n")
        self._length = self._length + count if end < 0 else count - end - 1
        if self._length > LONGEST_LINE:
            raise ValueError(f"a line is longer than {LONGEST_LINE:,} bytes")
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@contextmanager
def _as_table(path: Path) -> Iterator[None]:
    """Convert a reader's errors to a ConfigError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read ({reason})") from None
    except (ValueError, pd.errors.ParserError, csv.Error) as error:  # of Unicode, too
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        kind = "parquet" if path.suffix == ".parquet" else "UTF-8 CSV"
        raise ConfigError(f"{path} cannot be read as a table ({reason}); save it as {kind}") from None


def _experiment(uri: str, name: str) -> pd.DataFrame:
    """Return the runs of an MLflow experiment as a table.

    Columns: tags, parameters, last metrics and the state.

    Raises:
        ConfigError: the server does not answer, or the experiment is unknown or has no runs.
    """
    store = uri.removeprefix("sqlite:///")
    if store != uri and not Path(store).is_file():  # MLflow would create an empty one
        raise ConfigError(f"--mlflow: no store {store!r}")
    with _variables(MLFLOW):
        rows = _runs(uri, name)
    if not rows:
        raise ConfigError(f"--mlflow: experiment {name!r} has no runs")
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[column for column in frame if str(column).startswith("mlflow.")])


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
    header, rows = _opened(path)
    return rows(header)


def load_targets(path: Path, scales: tuple[str, ...]) -> pd.DataFrame:
    """Read the scales to predict for, one row each.

    Raises:
        ConfigError: the file or a column is missing, or a value is not above 0.
    """
    header, rows = _opened(path)
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


def _runs(uri: str, name: str) -> list[dict[str, object]]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            names = [stored.name for stored in client.search_experiments()]
            raise ConfigError(f"--mlflow: {unknown('experiment', name, names)}")
        rows: list[dict[str, object]] = []
        token: str | None = None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            rows += [{**run.data.tags, **run.data.params, **run.data.metrics, "state": run.info.status} for run in page]
            token = page.token
            if not token:
                break
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        if "failed with exception" in reason:  # a connection error with all its details
            cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(timed out)", reason)
            answer = f" ({cause.group(0)})" if cause else ""
            message = f"--mlflow: no server answers at {uri}{answer}; start it, or give another URI"
            raise ConfigError(message) from None
        shown = textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")
        raise ConfigError(f"--mlflow: experiment {name!r} cannot be read ({shown})") from None
    return rows


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables temporarily, except those that are already set."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
