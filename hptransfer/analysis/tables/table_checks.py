"""Checks of tables: columns, numbers and states."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.tables.columns import Columns
from hptransfer.core.bracketing import LARGEST_VALUE, SMALLEST_VALUE
from hptransfer.core.errors import NAMES_IN_MESSAGE, ConfigError, unknown
from hptransfer.core.records import DIVERGED, DONE, short

# MLflow and others store infinity as the largest float.
HUGE = 1e300
MOST_TABLE_SCALES = 1_000
# Words for the loss of a run that diverged, besides nan and inf.
DIVERGED_WORDS = ("diverged", "divergence", "diverge")
# Way out of a loss that is another word.
LOSS_WAY_OUT = "nan if the run diverged, or leave the row out"
# Numbers with a unit or separators of thousands, and the units' values.
SHORT_NUMBER = re.compile(r"(?P<number>\d+(?:[,_]\d{3})*(?:\.\d+)?)\s?(?P<unit>[kKmMbBgGtT]?)")
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
# Relative distance of values that differ by the way they were computed only.
SAME = 1e-12


def check_table(frame: pd.DataFrame, columns: Columns, location: str) -> pd.DataFrame:
    """Return the finished runs with their loss, infinite for diverged ones.

    The loss is to be minimized, whatever the goal.

    The index is that of the frame.

    A `state` column, if there is one, tells which runs finished; without one all did. A loss that is missing or not
    finite means that the run diverged. Rows with the same scale and tuned values are repeats (seeds).

    Raises:
        ConfigError: a column is missing, not numeric, or has values that are not above 0.
    """
    used = (*columns.scales, *columns.tuned, columns.loss)
    for name in used:
        if name not in frame.columns:
            raise ConfigError(f"{location}: {unknown_column(name, map(str, frame.columns))}")
    check_unique(location, list(frame.columns), used)
    unused = unused_rows(frame)
    if "state" in frame.columns:
        frame = frame[frame["state"].isin([DONE, DIVERGED])]
    if frame.empty:
        states = f" ({format_counts(unused)})" if unused else ""
        raise ConfigError(f"{location} has no finished run{states}; nothing can be fitted")
    clean = frame.copy()
    for name in (*columns.scales, *columns.tuned):
        clean[name] = _without_rounding(check_numbers(clean[name], name, location))
        invalid = clean[~clean[name].between(SMALLEST_VALUE, LARGEST_VALUE)]
        if len(invalid):
            way_out = "; complete the value, or leave the row out"
            if ((invalid[name] > 0) & np.isfinite(invalid[name])).all():
                way_out = f"; values from {short(SMALLEST_VALUE)} to {short(LARGEST_VALUE)} are possible"
            if name in columns.tuned and (invalid[name] == 0).all():  # dropout and weight decay are often 0
                way_out = (
                    "; its logarithm is fitted: leave these rows out, or tune a column that is above 0 instead, "
                    f"such as 1 - {name}, or {name} plus a constant"
                )
            raise ConfigError(
                f"{location}: column {name!r} must be above 0 and finite, "
                f"got {short(float(invalid[name].iloc[0]))} in {first_row(invalid)}"
                f"{way_out}"
            )
    if (scales := len(clean[list(columns.scales)].drop_duplicates())) > MOST_TABLE_SCALES:
        raise ConfigError(
            f"{location} has {scales:,} scales by {', '.join(columns.scales)}, at most {MOST_TABLE_SCALES:,} are "
            "possible; name the columns of the scale alone"
        )
    loss = check_numbers(_without_words(clean[columns.loss]), columns.loss, location, LOSS_WAY_OUT)
    loss = columns.objective.sign * loss
    clean[columns.loss] = loss.where(np.isfinite(loss) & (loss.abs() < HUGE), math.inf)
    if "state" in clean.columns:
        clean.loc[clean["state"] == DIVERGED, columns.loss] = math.inf
    return clean


def _without_words(losses: pd.Series[Any]) -> pd.Series[Any]:
    """Return losses with nan for words of a run that diverged."""
    if pd.api.types.is_numeric_dtype(losses):
        return losses
    return losses.where(~losses.astype(str).str.strip().str.lower().isin(DIVERGED_WORDS), None)


def _without_rounding(column: pd.Series[float]) -> pd.Series[float]:
    """Return numbers of which those that agree to twelve digits are one."""
    distinct = np.unique(column.dropna())
    starts = np.diff(distinct, prepend=-math.inf) > SAME * np.abs(distinct)
    same = dict(zip(distinct, distinct[starts][np.cumsum(starts) - 1], strict=True)) if not starts.all() else {}
    return column.map(same) if same else column


def unused_rows(frame: pd.DataFrame) -> dict[str, int]:
    """Return the number of rows that check_table leaves out, by their state."""
    if "state" not in frame.columns:
        return {}
    states = frame["state"].value_counts()
    return {str(state): int(count) for state, count in states.items() if state not in (DONE, DIVERGED)}


def format_counts(states: Mapping[str, int]) -> str:
    """Return counts as text, such as "5 failed, 4 running"."""
    return ", ".join(f"{count} {state}" for state, count in states.items())


def check_unique(location: str, header: Sequence[str], used: Iterable[str]) -> None:
    """Raise ConfigError if a used column occurs twice."""
    for name in used:
        if (times := header.count(name)) > 1:
            raise ConfigError(f"{location}: {times} columns are called {name!r}; which one is meant? Rename the others")


def unknown_column(name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown column, with a few others."""
    return unknown("column", name, known, NAMES_IN_MESSAGE)


def first_row(rows: pd.DataFrame | pd.Series[Any]) -> str:
    """Return the first of some rows as text, such as "row 1".

    Rows are counted from the first one below the header.
    """
    first = rows.index[0]
    return f"row {first + 1}" if isinstance(first, int | np.integer) else f"row {first!r}"


def check_numbers(
    column: pd.Series[Any], name: str, location: str, way_out: str = "leave the row out"
) -> pd.Series[float]:
    """Return the column as floats.

    Args:
        way_out: of a value that is not a number in short form, such as 64M.

    Raises:
        ConfigError: a value in the column is not a number.
    """
    values = pd.to_numeric(column, errors="coerce")
    words = column[values.isna() & column.notna()]
    if len(words):
        number = _plain_number(str(words.iloc[0]))
        help_text = f"write it as {number}" if number else f"write a number such as 64 or 6.4e7, or {way_out}"
        raise ConfigError(
            f"{location}: column {name!r} must be numbers, got {words.iloc[0]!r} in {first_row(words)}; {help_text}"
        )
    return values.astype(float)


def _plain_number(text: str) -> str:
    """Return a number with a unit as it is read; else blank."""
    match = SHORT_NUMBER.fullmatch(text.strip())
    if not match:
        return ""
    value = float(match["number"].replace(",", "").replace("_", "")) * UNITS[match["unit"].upper()]
    return f"{value:.15g}"
