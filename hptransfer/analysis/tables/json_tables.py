"""Tables in JSON: lines, lists and objects of runs.

Objects inside a run, such as `config` and `summary` of the W&B API, become columns with dotted names: config.lr.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hptransfer.core.errors import ConfigError

LINES_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (".json", *LINES_SUFFIXES)
LARGEST_JSON_TABLE = 100_000_000
"""Bytes of a JSON table; each takes some ten times as much memory as it is read."""
MOST_JSON_COLUMNS, MOST_CELLS = 2_000, 20_000_000
# A whole number of more digits is read as a float, which Python does in linear time.
MOST_DIGITS = 18
# Texts that tools write for a missing value, as JSON itself has no NaN.
NO_VALUE = ("NaN", "nan", "")
# Rows that become a part of the table at a time.
PART_ROWS = 50_000
# Names of columns in which a named run's name is kept, if its own keys leave one of them free.
NAME_COLUMNS = ("name", "run_name")
READ = (
    "JSON is read as one object on each line, a list of objects, an object of columns, or an object of named runs; "
    'each run is an object with the scale, the tuned values and the loss, such as {"width": 64, "lr": 0.01, "loss": 3}'
)


def is_json(path: Path) -> bool:
    """Return True for a file whose name says that it holds JSON."""
    return path.suffix.lower() in JSON_SUFFIXES


def read_json_table(path: Path, most_rows: int) -> pd.DataFrame:
    """Read a table of runs, a row for each run.

    Raises:
        ConfigError: the file has another form, too many rows or columns, or is too large.
        ValueError: it is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_JSON_TABLE + 1)
    if len(content) > LARGEST_JSON_TABLE:
        raise ConfigError(
            f"{path} has more than {LARGEST_JSON_TABLE:,} bytes, which is too large for JSON; save it as parquet or CSV"
        )
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise ConfigError(f"{path} is empty; a table needs rows")
    rows = _rows(path, text)
    parts: list[pd.DataFrame] = []
    columns: set[str] = set()
    part: list[dict[str, Any]] = []
    count = 0
    for count, row in enumerate(rows, start=1):
        if count > most_rows:
            raise ConfigError(f"{path} has more than {most_rows:,} rows; keep one row a run, not its curve")
        flat = _flat(row)
        columns.update(flat)
        if len(columns) > MOST_JSON_COLUMNS or len(columns) * count > MOST_CELLS:
            raise ConfigError(
                f"{path}: its first {count:,} runs have {len(columns):,} different keys, at most "
                f"{MOST_JSON_COLUMNS:,} are read, and fewer of many runs; keep those of the scale, of the tuned values "
                "and of the loss"
            )
        part.append(flat)
        if len(part) == PART_ROWS:
            parts.append(pd.DataFrame(part))
            part = []
    if part or not parts:
        parts.append(pd.DataFrame(part))
    if not columns:
        raise ConfigError(f"{path} has no runs; {READ}")
    return pd.concat(parts, ignore_index=True)


def _rows(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    """Return the runs of a JSON text."""
    if path.suffix.lower() in LINES_SUFFIXES and not text.lstrip().startswith("["):
        return _lines(path, text)
    try:
        content = _parsed(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _lines(path, text)
        raise ConfigError(
            f"{path}: line {error.lineno} is not valid JSON ({error.msg} at column {error.colno}); correct it, or save "
            "the table as CSV"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path} cannot be read: its objects are nested too deeply; {READ}") from None
    return iter(_runs(path, content))


def _lines(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    """Yield the runs of JSON lines."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else "nested too deeply"
            )
            raise ConfigError(
                f"{path}: line {number} is not a JSON object ({reason}); correct the line or leave it out"
            ) from None
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}: line {number} must be a JSON object of one run, got {_shown(row)}; correct the line or leave "
                "it out"
            )
        yield row


def _runs(path: Path, content: Any) -> Sequence[Mapping[str, Any]]:
    """Return the runs of a JSON document.

    Raises:
        ConfigError: the document has another form.
    """
    if isinstance(content, list):
        for number, row in enumerate(content, start=1):
            if not isinstance(row, dict):
                raise ConfigError(f"{path}: item {number} must be an object of one run, got {_shown(row)}; {READ}")
        return content
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {_shown(content)}; {READ}")
    names, rows = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(rows, list):  # a table of W&B, or of pandas with orient="split"
        if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
            raise ConfigError(f"{path}: each row under `data` must have a value for each name under `columns`; {READ}")
        return [dict(zip(map(str, names), row, strict=True)) for row in rows]
    lists = [value for value in content.values() if isinstance(value, list)]
    tables = [value for value in lists if value and all(isinstance(row, dict) for row in value)]
    if len(tables) == 1:  # such as {"runs": [...]}
        return list(tables[0])
    values = list(content.values())
    if len(lists) == len(values) and values:
        if len({len(column) for column in lists}) > 1:
            raise ConfigError(f"{path}: its columns must have the same number of values; {READ}")
        return [dict(zip(content, row, strict=True)) for row in zip(*lists, strict=True)]
    if values and all(isinstance(value, dict) for value in values):
        if all(key.isdecimal() for value in values for key in value):  # of pandas: a value for each number of a row
            numbers = dict.fromkeys(key for value in values for key in value)
            return [{name: column.get(number) for name, column in content.items()} for number in numbers]
        return [_named(name, run) for name, run in content.items()]
    name, value = next(iter(content.items()), ("", None))
    found = f"gives {name!r} {_shown(value)} alone" if values else "holds no runs"
    raise ConfigError(f"{path} {found}; {READ}")


def _named(name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with its name, if a key is free."""
    free = next((column for column in NAME_COLUMNS if column not in run), None)
    return {**run, free: name} if free else dict(run)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with dotted names for what its objects hold.

    An object of a value and its description, as W&B stores a configuration, is the value. Lists are text.
    """
    flat: dict[str, Any] = {}
    stack = [("", row)]
    while stack:
        prefix, values = stack.pop()
        for key, value in values.items():
            if isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}:
                value = value["value"]
            if isinstance(value, dict):
                stack.append((f"{prefix}{key}.", value))
            else:
                flat.setdefault(f"{prefix}{key}", _cell(value))
    return flat


def _cell(value: Any) -> Any:
    """Return a value as a cell of a table.

    Lists become text, and texts that mean a missing value become None.
    """
    if isinstance(value, list):
        return json.dumps(value)
    return None if isinstance(value, str) and value in NO_VALUE else value


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_whole_number)


def _whole_number(text: str) -> int | float:
    return int(text) if len(text) <= MOST_DIGITS else float(text)


def _shown(value: Any) -> str:
    """Return a value as a message names it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value:g}" if math.isfinite(value) else "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
