"""Results of coordinate checks, and judgement of their slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Largest slopes that pass: TIGHT for an MLP of WIDE units or more. Finite widths alone give other models up to 0.2.
TIGHT, LOOSE = 0.1, 0.2
WIDE = 256
# Value that stands for 0, whose logarithm is infinite.
LOG_FLOOR = 1e-300
OUTPUTS, STREAM = "outputs", "stream"
"""Row names of the model's outputs and of the residual stream behind the last block."""


@dataclass(frozen=True)
class CheckRow:
    """One row of a check.

    Attributes:
        name: the module, tensor or quantity.
        values: means over seeds, by size, then by column.
        slopes: slopes of log2 of the values against log2 of the size, by column; empty if the check has none.
        judged: columns that must be flat. A column that does not change at all is never judged.
        prescribed: slope that counts as flat: not 0 where a parameterization lets a layer learn slower with width.
    """

    name: str
    values: list[list[float]]
    slopes: list[float]
    judged: list[bool]
    prescribed: float = 0.0


@dataclass(frozen=True)
class Check:
    """The result of a coordinate check.

    Attributes:
        what: the measured quantity.
        axis: "width" or "depth".
        sizes: sizes along the axis.
        columns: names of a row's values, such as steps.
        tolerance: largest slope, up or down, that passes.
        fails: rows and columns that fail, in words.
        expected: why theory expects a failure; empty if it does not.
        reading: how to read the numbers where nothing is judged; empty if something is.
    """

    what: str
    axis: str
    sizes: list[int]
    columns: list[str]
    rows: list[CheckRow]
    tolerance: float
    fails: list[str]
    expected: str = ""
    reading: str = ""

    @property
    def passed(self) -> bool:
        """True if no row fails."""
        return not self.fails

    def steepest(self) -> tuple[float, str, str]:
        """Return the judged slope that is farthest off, with row and column.

        A slope of NaN is farther off than any number.
        """
        judged = [
            (slope - row.prescribed, row.name, column)
            for row in self.rows
            for slope, column, is_judged in zip(row.slopes, self.columns, row.judged, strict=True)
            if is_judged
        ]
        return max(judged, key=lambda entry: abs(entry[0]) if entry[0] == entry[0] else float("inf"))


def judge(
    what: str,
    axis: str,
    sizes: Sequence[int],
    columns: list[str],
    measured: dict[str, list[list[float]]],
    judged: list[bool],
    *,
    tolerance: float,
    expected: str,
    prescribed: Mapping[str, float] | None = None,
) -> Check:
    """Judge measured numbers by their slopes over size.

    Args:
        measured: numbers by name, size and column.
        judged: columns that must be flat.
        prescribed: slopes that count as flat, by name; 0 for all other names.
    """
    rows, fails = [], []
    for name, by_size in measured.items():
        values = [[value if value > 2 * LOG_FLOOR else 0.0 for value in row] for row in by_size]
        slopes = [log_slope(sizes, [row[column] for row in values]) for column in range(len(columns))]
        moved = [max(column) > 2 * LOG_FLOOR for column in zip(*values, strict=True)]
        row = CheckRow(
            name,
            values,
            slopes,
            [is_judged and has_moved for is_judged, has_moved in zip(judged, moved, strict=True)],
            (prescribed or {}).get(name, 0.0),
        )
        rows.append(row)
        for column, slope, is_judged in zip(columns, slopes, row.judged, strict=True):
            if is_judged and not abs(slope - row.prescribed) <= tolerance:
                fails.append(f"{name}, {column}: slope {slope:+.2f}")
    return Check(what, axis, list(sizes), columns, rows, tolerance, fails, expected)


def log_slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of log2 values against log2 sizes.

    It is NaN if a value is not finite.
    """
    if not np.isfinite(values).all():
        return float("nan")
    return float(np.polyfit(np.log2(sizes), np.log2(np.array(values) + LOG_FLOOR), 1)[0])
