"""Exports: figures as SVG or PNG, tables as CSV or JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hptransfer.analysis.report.analysis import Analysis
from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_bytes, write_text

FORMATS = ("csv", "json", "png", "svg")


def write_formats(analysis: Analysis, out: Path, formats: Sequence[str]) -> list[str]:
    """Write the figures and tables in the given formats.

    Returns:
        The written files as paths below `out`: figures/NAME.svg or .png, tables/NAME.csv or .json.

    Raises:
        RunFolderError: the folder of the figures or tables is a symbolic link.
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
        if folder.is_symlink():
            raise RunFolderError(f"{folder} is a symbolic link, so no figures or tables are written there; remove it")
        folder.mkdir(exist_ok=True)
        if name in ("png", "svg"):
            for key, figure in analysis.figures().items():
                written.append(folder / f"{figure_file_name(key)}.{name}")
                buffer = io.BytesIO()
                figure.savefig(buffer, format=name, dpi=200)
                write_bytes(written[-1], buffer.getvalue())
        else:
            for key, table in tables.items():
                written.append(folder / f"{key}.{name}")
                write_text(written[-1], table.to_csv(index=False) if name == "csv" else as_json(table))
    return [path.relative_to(out).as_posix() for path in written]


def earlier_files(out: Path) -> list[str]:
    """Return the exports that the fit.json of an earlier analysis lists.

    Empty if the file is missing or unreadable.
    """
    try:
        files = read_json(out / "fit.json").get("files")
    except (OSError, RunFolderError):
        return []
    names = files if isinstance(files, list) else []
    return [name for name in names if isinstance(name, str) and re.fullmatch(r"(figures|tables)/[^/]+", name)]


def remove_stale(out: Path, earlier: Sequence[str], written: Sequence[str]) -> None:
    """Remove the exports of an earlier analysis that were not written again."""
    for path in sorted(out / name for name in {*earlier} - {*written}):
        if path.is_file() and not path.is_symlink() and not path.parent.is_symlink():
            path.unlink()


def figure_file_name(key: str) -> str:
    """Return a file name for a figure of any name."""
    return re.sub(r"[^\w.-]+", "-", key)


def as_json(table: pd.DataFrame) -> str:
    """Return a table as a JSON array of objects.

    Numbers that are not finite become null.
    """
    return table.to_json(orient="records", indent=1) + "\n"
