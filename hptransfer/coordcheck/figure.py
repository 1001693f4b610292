"""Figure of a coordinate check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from hptransfer.analysis.report.figures import (
    COLOURS,
    FAINT,
    FLAT_SPAN,
    LEGEND_ENTRIES,
    MARKERS,
    PANEL_INCHES,
    STYLE,
    figure_svg,
)


def coordinate_check_figure(check: Mapping[str, Any]) -> str:
    """Plot a check's values against size and return the figure as SVG.

    Every column has a panel and every module a line. Among many modules the steepest ones are named.

    Args:
        check: `hptransfer.coordcheck.judgement.Check` as plain values.
    """
    columns, sizes = check["columns"], check["sizes"]
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(columns), PANEL_INCHES[1]), layout="constrained")
        for column, axes in enumerate(np.atleast_1d(figure.subplots(1, len(columns))).flat):
            rows = [row for row in check["rows"] if all(values[column] > 0 for values in row["values"])]
            if rows and rows[0]["slopes"]:
                rows.sort(key=lambda row: -abs(row["slopes"][column]))
            for rank, row in enumerate(rows):
                index = check["rows"].index(row)  # a module has the same style in every panel
                style = {
                    "marker": MARKERS[index % len(MARKERS)],
                    "ms": 4,
                    "lw": 1.2,
                    "color": COLOURS[index % len(COLOURS)],
                }
                label = f"{row['name']} ({row['slopes'][column]:+.2f})" if row["slopes"] else row["name"]
                named = {"label": label} if rank < LEGEND_ENTRIES else {"color": FAINT}
                axes.loglog(sizes, [values[column] for values in row["values"]], **{**style, **named})
            axes.set_yscale("log", base=2)
            low, high = axes.get_ylim()
            room = max(1.0, (FLAT_SPAN * low / high) ** 0.5)  # flat lines must look flat
            axes.set_ylim(low / room, high * room)
            axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
            axes.set_xticks([], minor=True)
            axes.set(title=columns[column], xlabel=check["axis"], ylabel=check["what"] if not column else None)
            if rows:
                axes.legend(fontsize=7)
        return figure_svg(figure)
