"""Tables in files: CSV, parquet and JSON, read in parts.

Of a large file only the columns that are used are read. A table with too many rows or with endless lines is refused
before it fills the memory.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.json_tables import is_json, read_json_table
from hptransfer.core.errors import ConfigError

# Upper limit of the rows, more than any sweep has; their analysis takes 1 GB.
MOST_ROWS = 1_000_000
PART_ROWS = 200_000
# Upper limit of a line, in bytes.
LONGEST_LINE = 1_000_000
COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
# Separators of files that are not comma-separated.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def open_table(path: Path) -> tuple[list[str], Callable[[list[str]], pd.DataFrame]]:
    """Return a file's columns and a function that reads some of them."""
    header = _header(path)
    if header is None:
        with _as_table(path):
            frame = read_json_table(path, MOST_ROWS)
        header = list(map(str, frame.columns))
        return [name.strip() for name in header], lambda columns: _named(columns, header, lambda names: frame[names])
    return [name.strip() for name in header], lambda columns: _named(columns, header, partial(_read_rows, path))


def _named(columns: list[str], header: Sequence[str], rows: Callable[[list[str]], pd.DataFrame]) -> pd.DataFrame:
    """Return columns by their names without blanks at the ends."""
    names = {name.strip(): name for name in header}
    return rows([names[column] for column in columns])[[names[column] for column in columns]].set_axis(columns, axis=1)


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
    blanks = len(text.split())
    if "," not in text and blanks > 1 and len(first.split()) == blanks and "\t" not in text and ";" not in text:
        raise ConfigError(f"{path} has its columns separated by blanks; save it with commas, as CSV")
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
