"""What is on the page, as files: every figure as SVG or PNG, every table as CSV or JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hptransfer.analysis.result import Analysis
from hptransfer.core.files import write_text

FORMATS = ("csv", "json", "png", "svg")


def write_formats(analysis: Analysis, out: Path, formats: Sequence[str]) -> None:
    """Writes figures/NAME.svg or .png and tables/NAME.csv or .json, of those formats that are asked for."""
    tables = {
        "exponents": analysis.exponents,
        "held_out": analysis.held_out,
        "optima": analysis.optima,
        "predictions": analysis.predictions,
    }
    for name in formats:
        folder = out / ("figures" if name in ("png", "svg") else "tables")
        folder.mkdir(exist_ok=True)
        if name == "csv":
            for key, table in tables.items():
                write_text(folder / f"{key}.csv", table.to_csv(index=False))
        elif name == "json":
            for key, table in tables.items():
                write_text(folder / f"{key}.json", as_json(table))
        else:
            for key, figure in analysis.figures().items():
                figure.savefig(folder / f"{file_name(key)}.{name}", dpi=200)


def file_name(key: str) -> str:
    """A figure's name as a file's: columns may be called anything, such as optim/lr."""
    return re.sub(r"[^\w.-]+", "-", key)


def as_json(table: pd.DataFrame) -> str:
    """A table as a JSON array of objects; what is no finite number is null."""
    return table.to_json(orient="records", indent=1) + "\n"
