"""What is on the page, as files: every figure as SVG or PNG, every table as CSV or JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hptransfer.analysis.report.analysis import Analysis
from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_text

FORMATS = ("csv", "json", "png", "svg")


def write_formats(analysis: Analysis, out: Path, formats: Sequence[str]) -> list[str]:
    """Writes figures/NAME.svg or .png and tables/NAME.csv or .json, of those formats that are asked for.

    Returns:
        What was written, as paths below `out`.
    """
    tables = {
        "exponents": analysis.exponents,
        "held_out": analysis.held_out,
        "optima": analysis.optima,
        "predictions": analysis.predictions,
    }
    written = []
    for name in formats:
        folder = out / ("figures" if name in ("png", "svg") else "tables")
        folder.mkdir(exist_ok=True)
        if name in ("png", "svg"):
            for key, figure in analysis.figures().items():
                written.append(folder / f"{figure_file_name(key)}.{name}")
                figure.savefig(written[-1], dpi=200)
        else:
            for key, table in tables.items():
                written.append(folder / f"{key}.{name}")
                write_text(written[-1], table.to_csv(index=False) if name == "csv" else as_json(table))
    return [path.relative_to(out).as_posix() for path in written]


def earlier_files(out: Path) -> list[str]:
    """What an earlier analysis wrote into its `figures` and `tables`, as its fit.json says; none if that is no such."""
    try:
        found = read_json(out / "fit.json").get("files")
    except (OSError, RunFolderError):
        return []
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and re.fullmatch(r"(figures|tables)/[^/]+", name)]


def remove_stale(out: Path, earlier: Sequence[str], written: Sequence[str]) -> None:
    """Takes away what an earlier analysis wrote and this one did not; no other file is touched."""
    for name in {*earlier} - {*written}:
        if (out / name).is_file():
            (out / name).unlink()


def figure_file_name(key: str) -> str:
    """A figure's name as a file's: columns may be called anything, such as optim/lr."""
    return re.sub(r"[^\w.-]+", "-", key)


def as_json(table: pd.DataFrame) -> str:
    """A table as a JSON array of objects; what is no finite number is null."""
    return table.to_json(orient="records", indent=1) + "\n"
