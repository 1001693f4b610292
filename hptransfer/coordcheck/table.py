"""Table of a coordinate check on the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def coordinate_check_table(check: Any) -> list[Table | str]:
    """Return a check's slopes as a table, one row per module.

    Judged slopes that are too steep are marked.
    """
    title = f"slope of log2 {check.what} against log2 {check.axis}, {check.axis}s {', '.join(map(str, check.sizes))}"
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("")
    for column in check.columns:
        grid.add_column(column, justify="right")
    for row in check.rows:
        if row.slopes:
            marks = [
                "*" if judged and abs(slope - row.prescribed) > check.tolerance else " "
                for slope, judged in zip(row.slopes, row.judged, strict=True)
            ]
            grid.add_row(row.name, *(f"{slope:+.2f}{mark}" for slope, mark in zip(row.slopes, marks, strict=True)))
        else:
            for size, values in zip(check.sizes, row.values, strict=True):
                grid.add_row(f"{check.axis} {size}", *(f"{value:.4f}" for value in values))
    return [title, grid]
