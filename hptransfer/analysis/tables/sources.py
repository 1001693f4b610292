"""Runs from anywhere: CSV and parquet files, exports of W&B and Optuna, an MLflow experiment.

Only columns that are used or warned about are read, in parts; a table of too many rows, or of rows
that do not end, is refused rather than read.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.axis_roles import SCHEDULE, kind
from hptransfer.analysis.tables.checks import WAITING, check_numbers, check_table, check_unique, row_of
from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.records import DIVERGED, DONE, FAILED, PRUNED

# Rows that are read: more than any sweep has runs; the analysis of so many takes 1 GB.
MOST_ROWS = 1_000_000
PART_ROWS = 200_000
# A line longer than this, in bytes, is none of a table.
LONGEST_LINE = 1_000_000
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
# What separates columns in files that only call themselves comma-separated.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# Prefixes under which other tools export a column: Optuna, W&B, MLflow.
PREFIXES = ("params_", "user_attrs_", "config/", "config.", "params.", "metrics.", "summary/", "summary.")
# What else a loss, a seed or a state is called there.
OTHER_NAMES = {"loss": ("value", "values_0"), "state": ("State", "status", "Status"), SEED: ("Seed",)}
# What a state is called there, and here.
STATES = {
    **dict.fromkeys(("done", "finished", "complete", "completed", "success"), DONE),
    **dict.fromkeys(("diverged",), DIVERGED),
    "pruned": PRUNED,
    **dict.fromkeys(("failed", "fail", "crashed", "killed", "preempted", "cancelled", "canceled"), FAILED),
    **{word: word for word in (WAITING, "running", "pending", "queued", "scheduled", "preempting")},
}
# MLflow would send telemetry, and try seven times over minutes.
MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
# Words that a message names.
NAMED = 4
# Of what MLflow makes of an error, letters that are shown.
LONGEST_REASON = 120
USEFUL = ("flops", "steps", SEED, "state", *SCHEDULE)


@dataclass(frozen=True)
class TableSource:
    """Where a table of runs is.

    Attributes:
        path: a file; or else `mlflow` and `experiment`.
        names: what the table calls a column, by the name that it is analyzed under.
    """

    path: Path | None = None
    mlflow: str | None = None
    experiment: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path | None, mlflow: str | None, experiment: str | None, columns: str | None) -> TableSource:
        """From the options of the command line.

        Raises:
            ConfigError: `--columns` is not NAME=COLUMN,...
        """
        names = {}
        for part in columns.split(",") if columns else ():
            name, equals, column = part.partition("=")
            if not (name and equals and column):
                raise ConfigError(
                    f"--columns must be NAME=COLUMN,..., such as lr=config/lr, got {part!r}; a column with a comma in "
                    "its name must be renamed in the table"
                )
            names[name.strip()] = column.strip()
        return cls(path, mlflow, experiment, names)

    @property
    def title(self) -> str:
        return self.path.name if self.path else str(self.experiment)

    @property
    def place(self) -> str:
        return str(self.path) if self.path else f"experiment {self.experiment!r}"

    def read(self, columns: Columns) -> pd.DataFrame:
        """The table, its columns renamed to those that are asked for; not yet checked.

        Raises:
            ConfigError: it is missing, no table, or too large; a column is missing.
        """
        wanted = [*columns.scales, *columns.tuned, columns.loss]
        if self.path is None:
            frame = _experiment(str(self.mlflow), str(self.experiment))
            found = self._found(frame.columns, wanted)
        else:
            header = _header(self.path)
            found = self._found(header, wanted)
            check_unique(self.place, header, found.values())
            frame = _rows(self.path, sorted(set(found.values())))
        frame = frame[list(found.values())].set_axis(list(found), axis=1)
        if "state" in self.names and not _has_words(frame["state"]):
            raise ConfigError(
                f"{self.place}: --columns state={self.names['state']}: a column of numbers does not say which runs "
                f"finished; use words ({_known_words()}), or leave it out of --columns to count every row"
            )
        return canonical_states(frame, self.place, found.get("state", "state"))

    def _found(self, there: Iterable[str], wanted: list[str]) -> dict[str, str]:
        """The table's column of each name: as given, as it is, or as other tools export it."""
        names = list(map(str, there))
        for name, column in self.names.items():
            if column not in names:
                raise ConfigError(f"{self.place}: --columns {name}={column}: {unknown('column', column, names)}")
        found = {}
        for name in (*wanted, *USEFUL, *(name for name in names if kind(name) == "batch")):
            candidates = [self.names.get(name, name), *(prefix + name for prefix in PREFIXES)]
            candidates += OTHER_NAMES.get("loss" if name == wanted[-1] else name, ())
            match = next((one for one in candidates if one in names), None)
            if match is not None:
                found[name] = match
            elif name in wanted:
                raise ConfigError(f"{self.place}: {_unknown_column(name, names)}")
        return found


def _unknown_column(name: str, names: Sequence[str]) -> str:
    """One line; it says so if options cannot give the column's name, as commas stand between names there."""
    whole = next((one for one in names if name in one.split(",")[:-1]), None)
    hint = f"; column {whole!r} has a comma in its name, which must be renamed in the table" if whole else ""
    return unknown("column", name, names) + hint


def canonical_states(frame: pd.DataFrame, place: str, column: str = "state") -> pd.DataFrame:
    """A table whose `state` column, if it has one, says it in the words of a run folder.

    Numbers there are no states (exit codes, say): the table is as if it had no such column.

    Args:
        column: what the table itself calls it.

    Raises:
        ConfigError: the column has a word that is no known state.
    """
    if "state" not in frame:
        return frame
    if not _has_words(frame["state"]):
        return frame.drop(columns="state")
    words = frame["state"].astype(object).fillna("").astype(str).str.strip().str.lower()
    if strange := sorted({*words} - {*STATES}):
        named = ", ".join(map(repr, strange[:NAMED])) + (f" and {len(strange) - NAMED} more" * (len(strange) > NAMED))
        raise ConfigError(
            f"{place}: column {column!r} says which runs finished, got {named} in "
            f"{row_of(words[words == strange[0]])}; known: {_known_words()}; "
            "write one of these there, or rename the column to count every row"
        )
    return frame.assign(state=words.map(STATES))


def _has_words(column: pd.Series[Any]) -> bool:
    return bool((pd.to_numeric(column, errors="coerce").isna() & column.notna()).any())


def _known_words() -> str:
    return ", ".join(sorted(STATES))


def _header(path: Path) -> list[str]:
    """The names of the columns, one that is there twice twice."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the path of a CSV or parquet file")
    if not path.exists():
        raise ConfigError(f"no table {str(path)!r}; give the path of a CSV or parquet file")
    if path.suffix in COMPRESSED:
        raise ConfigError(f"{path} is compressed; unpack it, and give the path of the file that was in it")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with _as_table(path):
            return list(pyarrow.parquet.read_schema(path).names)
    with _as_table(path), path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise ValueError(f"its first line is longer than {LONGEST_LINE:,} bytes")
        text, first = line.decode("utf-8-sig"), file.readline(LONGEST_LINE).decode()
    if not text.strip():
        raise ConfigError(f"{path} is empty; a table needs a header and rows")
    if "," not in text and (used := next((one for one in SEPARATORS if one in text), None)):
        raise ConfigError(f"{path} has its columns separated by {SEPARATORS[used]}; save it with commas, as CSV")
    names, row = (next(csv.reader([one]), []) for one in (text, first))
    if any(row[len(names) :]):  # 0,5 for 0.5, say: every column would be another one's
        raise ConfigError(f"{path} cannot be read as a table: its first row has more values than the header")
    return names


def _rows(path: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of a file.

    Raises:
        ConfigError: it cannot be read as a table, has too many rows, or a row that is not as long as the header.
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
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # what is no number is named later
        for part in reader:
            rows += len(part)
            if rows > MOST_ROWS:
                raise ConfigError(_too_many(path, f"more than {MOST_ROWS:,}"))
            parts.append(part)
    _check_lengths(path)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _check_lengths(path: Path) -> None:
    """A reader of tables fills what is missing in a line and drops what is too much, without a word.

    Raises:
        ConfigError: a row of a CSV file has fewer or more values than its header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))  # a cell may hold a whole configuration
    with _as_table(path), io.TextIOWrapper(io.BufferedReader(_Lines(path)), "utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file) if len(row) > 1 or "".join(row).strip())
        header = next(rows)
        most, fewest = len(header), 1 + max(place for place, name in enumerate(header) if name)
        for number, row in enumerate(rows, start=1):
            if len(row) < fewest or any(row[most:]):
                how = "fewer" if len(row) < fewest else "more"  # cut off, or 0,5 for 0.5, say
                raise ConfigError(
                    f"{path}: row {number} has {len(row)} values, {how} values than the header, which has {fewest}; "
                    "complete the row or leave it out, and put a value that holds a comma in quotes"
                )


def _too_many(path: Path, rows: str) -> str:
    size = path.stat().st_size / 1e6
    shown = f"{size / 1e3:.1f} GB" if size > 100 else f"{size:.3g} MB"
    return f"{path} has {rows} rows ({shown}), at most {MOST_ROWS:,} are read; keep one row a run, not its curve"


class _Lines(io.RawIOBase):
    """A file whose lines must end: a reader of tables would hold one that does not in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._length = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            ValueError: a line is too long.
        """
        count = self._file.readinto(buffer) or 0
        end = bytes(buffer[:count]).rfind(b"\n")
        self._length = self._length + count if end < 0 else count - end - 1
        if self._length > LONGEST_LINE:
            raise ValueError(f"a line is longer than {LONGEST_LINE:,} bytes")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _as_table(path: Path) -> Iterator[None]:
    """Turns what a reader makes of a bad file into one line."""
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
    """Runs of an MLflow experiment: parameters, as numbers where they are, last metrics, tags and the state.

    Raises:
        ConfigError: the server does not answer, or has no such experiment.
    """
    store = uri.removeprefix("sqlite:///")
    if store != uri and not Path(store).is_file():  # MLflow would make an empty one
        raise ConfigError(f"--mlflow: no store {store!r}")
    with _variables(MLFLOW):
        rows = _runs(uri, name)
    if not rows:
        raise ConfigError(f"--mlflow: experiment {name!r} has no runs")
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[column for column in frame if str(column).startswith("mlflow.")])


def load_table(path: Path, columns: Columns) -> pd.DataFrame:
    """A file of runs with the named columns checked and the loss made finite or infinite.

    Raises:
        ConfigError: the file or a column is missing, empty or not what it should be.
    """
    return check_table(TableSource(path).read(columns), columns, str(path))


def read_table(path: Path) -> pd.DataFrame:
    """All columns of a CSV or parquet file as they are.

    Raises:
        ConfigError: it is missing, empty, no table or too large.
    """
    return _rows(path, _header(path))


def load_targets(path: Path, scales: tuple[str, ...]) -> pd.DataFrame:
    """The scales to predict for, one row each.

    Raises:
        ConfigError: the file or a column is missing, or a value is not above 0.
    """
    header = _header(path)
    for name in scales:
        if name not in header:
            raise ConfigError(f"{path}: {_unknown_column(name, header)}")
    check_unique(str(path), header, scales)
    frame = _rows(path, list(scales))
    return check_targets(frame, scales, str(path))


def check_targets(frame: pd.DataFrame, scales: Sequence[str], place: str) -> pd.DataFrame:
    """The scale columns as numbers.

    Raises:
        ConfigError: a column is missing, or a value is not above 0.
    """
    for name in scales:
        if name not in frame:
            raise ConfigError(f"{place}: {unknown('column', name, map(str, frame.columns))}")
    checked = frame[list(scales)].copy()
    for name in scales:
        values = check_numbers(frame[name], name, place)
        if not len(values) or not ((values > 0) & (values < math.inf)).all():
            raise ConfigError(f"{place}: column {name!r} must have numbers above 0 in every row")
        checked[name] = pd.to_numeric(checked[name])
    return checked


def _runs(uri: str, name: str) -> list[dict[str, object]]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            there = [one.name for one in client.search_experiments()]
            raise ConfigError(f"--mlflow: {unknown('experiment', name, there)}")
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
        if "failed with exception" in reason:  # of the connection, in all its detail
            cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(timed out)", reason)
            answer = f" ({cause.group(0)})" if cause else ""
            message = f"--mlflow: no server answers at {uri}{answer}; start it, or give another URI"
            raise ConfigError(message) from None
        shown = textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")
        raise ConfigError(f"--mlflow: experiment {name!r} cannot be read ({shown})") from None
    return rows


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; what the user has set counts."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
