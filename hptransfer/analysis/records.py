"""Tables of outcomes: from a run folder, or from anybody's CSV or parquet file; checked either way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.files import RunFolder
from hptransfer.core.records import DIVERGED, DONE, SWEEP

WAITING = "waiting"
SEED = "seed"

# MLflow and others store infinity as the largest float.
HUGE = 1e300


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what."""

    scales: tuple[str, ...]
    tuned: tuple[str, ...]
    loss: str = "loss"

    def __post_init__(self) -> None:
        if len(self.tuned) != 1:
            raise ConfigError(
                f"exactly one tuned hyperparameter can be analyzed for now, got {len(self.tuned)} "
                f"({', '.join(self.tuned)}); filter the table to one value of the others"
            )
        if not self.scales:
            raise ConfigError("name at least one scale column, such as width")

    @property
    def tuned_one(self) -> str:
        return self.tuned[0]


def run_records(folder: RunFolder, target: Mapping[str, Any]) -> pd.DataFrame:
    """One row a trial of the sweep, finished or not; verification trials are left out.

    Args:
        target: content of target.json, which names the scale axes and the tuned hyperparameter.
    """
    rows = []
    for trial in folder.read_trials():
        if trial.purpose != SWEEP:
            continue
        outcome = folder.read_outcome(trial.id)
        rows.append(
            {
                "trial": trial.id,
                **{axis: trial.scale.axes[axis] for axis in target["scales"]},
                **{key: trial.tuned[key] for key in target["tuned"]},
                SEED: trial.seed,
                "state": outcome.state if outcome else WAITING,
                "loss": outcome.loss if outcome else None,
                "loss_se": outcome.loss_se if outcome else None,
                "params": trial.params,
                "flops": trial.flops,
                "steps": outcome.steps if outcome else 0,
                "seconds": outcome.seconds if outcome else 0.0,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.sort_values(["flops", *target["scales"], *target["tuned"], SEED], ignore_index=True) if rows else frame


def load_table(path: Path, columns: Columns) -> pd.DataFrame:
    """A table of runs with the named columns checked and the loss made finite or infinite.

    Raises:
        ConfigError: the file or a column is missing, empty or not what it should be.
    """
    return check_table(read_table(path), columns, str(path))


def check_table(frame: pd.DataFrame, columns: Columns, place: str) -> pd.DataFrame:
    """The rows that say something: finished runs with their loss, diverged ones with infinity.

    A `state` column, if there is one, says which runs finished; without one every row did, and a
    loss that is missing or not finite means that the run diverged. Rows that repeat a scale and a
    value are repeats (seeds).

    Raises:
        ConfigError: a column is missing, not numeric, or has values that are not above 0.
    """
    for name in (*columns.scales, *columns.tuned, columns.loss):
        if name not in frame.columns:
            raise ConfigError(f"{place}: {unknown('column', name, map(str, frame.columns))}")
    if "state" in frame.columns:
        frame = frame[frame["state"].isin([DONE, DIVERGED])]
    if frame.empty:
        raise ConfigError(f"{place} has no finished run; nothing can be fitted")
    clean = frame.copy()
    for name in (*columns.scales, *columns.tuned):
        clean[name] = _numbers(clean[name], name, place)
        bad = clean[~((clean[name] > 0) & np.isfinite(clean[name]))]
        if len(bad):
            raise ConfigError(f"{place}: column {name!r} must be above 0 and finite, got {bad[name].iloc[0]}")
    loss = _numbers(clean[columns.loss], columns.loss, place)
    clean[columns.loss] = loss.where(np.isfinite(loss) & (loss.abs() < HUGE), math.inf)
    if "state" in clean.columns:
        clean.loc[clean["state"] == DIVERGED, columns.loss] = math.inf
    return clean.reset_index(drop=True)


def _numbers(column: pd.Series[Any], name: str, place: str) -> pd.Series[float]:
    values = pd.to_numeric(column, errors="coerce")
    strange = column[values.isna() & column.notna()]
    if len(strange):
        raise ConfigError(f"{place}: column {name!r} must be numbers, got {strange.iloc[0]!r}")
    return values.astype(float)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or parquet file as it is.

    Raises:
        ConfigError: it is missing, empty or no table.
    """
    if not path.is_file():
        raise ConfigError(f"no table {str(path)!r}; give the path of a CSV or parquet file")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except pd.errors.EmptyDataError:
        raise ConfigError(f"{path} is empty; a table needs a header and rows") from None
    except (UnicodeDecodeError, pd.errors.ParserError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0]}); save it as UTF-8 CSV"
        ) from None


def load_targets(path: Path, scales: tuple[str, ...]) -> pd.DataFrame:
    """The scales to predict for, one row each.

    Raises:
        ConfigError: the file or a column is missing, or a value is not above 0.
    """
    frame = read_table(path)
    for name in scales:
        if name not in frame.columns:
            raise ConfigError(f"{path}: {unknown('column', name, map(str, frame.columns))}")
        values = _numbers(frame[name], name, str(path))
        if not len(values) or not ((values > 0) & np.isfinite(values)).all():
            raise ConfigError(f"{path}: column {name!r} must have numbers above 0 in every row")
    return frame[list(scales)]
