"""Regret of predictions at larger scales of published language-model runs.

    python benchmarks/extrapolation.py [--subsets 200] [--processes 2]

The regret at a held-out scale is its loss at the predicted learning rate and batch size minus its least loss, in
percent of that. The loss is interpolated linearly on log2 axes from the measured losses, averaged over repeats. Outside
the tried values it is that of the nearest run. One table per split: mean and worst over held-out scales. All estimators
use the same random subsets; "less default" is the mean difference to the default estimator with its paired standard
error. An estimator with optima at fewer scales than the law has parameters gives no prediction: its regret, and that of
the default estimator that it is compared with, is over the remaining subsets.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from hptransfer.analysis.laws.fit import ESTIMATOR, fit_table
from hptransfer.analysis.laws.model_averaging import LawProblem, ModelAverage, average_models
from hptransfer.analysis.optima.estimators import ESTIMATORS
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.published_laws import published_predictions
from hptransfer.analysis.tables.arrays import Array, Axes, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import FitError

DATA = Path(__file__).parent / "data" / "lm_lr_batch_sweep.csv"
COLUMNS = Columns(scales=("params", "tokens"), tuned=("learning_rate", "batch_size"))
SEQUENCE = 2048  # tokens; the file's batch size is in sequences
SPLITS = ("params", "tokens")
# Tokens from which a run counts as long.
LONG = 2e10
SHARES = (1.0, 0.05, 0.1, 0.2)
PLUS = "cross of 5"
ARM = 2  # steps of the grid from a plus's centre to its ends
STEP_LAW = "Step Law"


@cache
def read() -> pd.DataFrame:
    return check_table(pd.read_csv(DATA), COLUMNS, DATA.name)


@cache
def split(by: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs of the smaller and of the larger scales."""
    table = read()
    larger = table["params"] == table["params"].max() if by == "params" else table["tokens"] >= LONG
    return table[~larger].reset_index(drop=True), table[larger].reset_index(drop=True)


class Measured:
    """Measured losses of one held-out scale."""

    def __init__(self, runs: pd.DataFrame) -> None:
        self.scale: Axes = {axis: float(runs[axis].iloc[0]) for axis in COLUMNS.scales}
        losses = runs[np.isfinite(runs["loss"])].groupby(list(COLUMNS.tuned))["loss"].mean()
        places = np.log2(losses.index.to_frame().to_numpy())
        self.least = float(losses.min())
        self.inside = LinearNDInterpolator(places, losses.to_numpy())
        self.outside = NearestNDInterpolator(places, losses.to_numpy())

    def regret(self, x: Array) -> float:
        """Return the regret in percent at x, log2 of rate and batch."""
        inside = float(self.inside(*x))
        loss = inside if math.isfinite(inside) else float(self.outside(*x))
        return 100 * (loss / self.least - 1)


@cache
def measured(by: str) -> list[Measured]:
    return [Measured(runs) for _, runs in split(by)[1].groupby(list(COLUMNS.scales))]


def predicted(table: pd.DataFrame, estimator: str, scales: Sequence[Axes], laws: Sequence[str] = ()) -> Array | None:
    """Return log2 of the values for scales, (scales, tuned).

    They are the decisions of the default estimator, and the optima of others. None if the estimator gives no
    prediction. The published estimators are computed without a response surface, because the benchmark needs thousands
    of predictions.
    """
    if estimator == ESTIMATOR:
        try:
            fit = fit_table(table, COLUMNS, laws=laws, draws=1)
        except FitError:
            return None
        return np.array([decide(fit, scale).value for scale in scales])
    runs = Runs.of(table, COLUMNS)
    chosen = ESTIMATORS.get(estimator)
    centre = (runs.x.min(axis=0) + runs.x.max(axis=0)) / 2
    problem = LawProblem(runs.scales, COLUMNS.tuned, centre, chosen.published)
    power = problem.linear(problem.power())
    estimates = chosen.find(runs, power)
    known = np.diag(estimates[0].likelihood.information).reshape(-1, len(COLUMNS.tuned)).min(axis=1) > 0
    if np.linalg.matrix_rank(power.features[known]) < power.features.shape[1]:
        return None
    return ModelAverage.of(average_models(problem, estimates, ("power",)), 1, 0).mean(scales)


def subset(table: pd.DataFrame, budget: float | str, seed: int) -> pd.DataFrame:
    """Return random runs: a share of all, or a plus per scale."""
    random = np.random.default_rng([0, seed])
    if isinstance(budget, float):
        return table.iloc[np.sort(random.choice(len(table), round(budget * len(table)), replace=False))]
    parts = [_plus(runs, random) for _, runs in table.groupby(list(COLUMNS.scales))]
    return pd.concat(parts)


def _plus(runs: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Return a random inner run, and the runs two steps away."""
    grid = [np.unique(runs[name]) for name in COLUMNS.tuned]
    place = {tuple(key): row for row, key in enumerate(runs[list(COLUMNS.tuned)].to_numpy())}
    crosses = []
    for i in range(len(grid[0]) // 4, len(grid[0]) - len(grid[0]) // 4):
        for j in range(len(grid[1]) // 4, len(grid[1]) - len(grid[1]) // 4):
            wanted = [(i, j), (i - ARM, j), (i + ARM, j), (i, j - ARM), (i, j + ARM)]
            keys = [(grid[0][a], grid[1][b]) for a, b in wanted if 0 <= a < len(grid[0]) and 0 <= b < len(grid[1])]
            if len(keys) == len(wanted) and all(key in place for key in keys):
                crosses.append([place[key] for key in keys])
    return runs.iloc[crosses[random.integers(len(crosses))]]


def regrets(estimator: str, budget: float | str, by: str, seed: int) -> list[float] | None:
    """Return the regret at every held-out scale, percent."""
    held = measured(by)
    x = predicted(subset(split(by)[0], budget, seed), estimator, [one.scale for one in held])
    return None if x is None else [one.regret(place) for one, place in zip(held, x, strict=True)]


def all_regrets(budget: float | str, by: str, seed: int) -> dict[str, list[float] | None]:
    """Return the regrets of every estimator on one subset."""
    return {name: regrets(name, budget, by, seed) for name in ESTIMATORS.names()}


def published(by: str) -> dict[str, list[float]]:
    """Return the regrets of the published laws of both rate and batch."""
    by_law: dict[str, list[float]] = {}
    for one in measured(by):
        for name, law in published_predictions(COLUMNS, one.scale).items():
            if len(law) == len(COLUMNS.tuned):
                x = np.log2([law["learning_rate"], law["batch_tokens"] / SEQUENCE])
                by_law.setdefault(name, []).append(one.regret(x))
    return by_law


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of the table, in percent.

    Attributes:
        less_default: mean difference to the default estimator, with its paired standard error `se`.
        answered: share of the subsets with a prediction.
    """

    budget: str
    name: str
    mean: float
    worst: float
    less_default: float
    se: float
    answered: float

    def markdown(self, goal: float) -> str:
        if not self.answered:
            return f"| {self.budget} | {self.name} | | | | | 0% |"
        error = "" if math.isnan(self.se) else f" ± {self.se:.3f}"
        less = "" if self.name == ESTIMATOR else f"{self.less_default:+.3f}{error}"
        shown = f"{self.mean:.3f} | {self.worst:.3f} | {less} | {self.mean / goal:.2f} | {self.answered:.0%}"
        return f"| {self.budget} | {self.name} | {shown} |"


def rows(by: str, budget: float | str, found: Sequence[dict[str, list[float] | None]]) -> Iterator[Row]:
    label = budget if isinstance(budget, str) else f"{budget:.0%}"
    for name in ESTIMATORS.names():
        pairs = [(one[name], one[ESTIMATOR]) for one in found]
        both = [(np.array(own), np.array(default)) for own, default in pairs if own is not None and default is not None]
        if not both:  # no subset was answered
            yield Row(
                budget=label, name=name, mean=math.nan, worst=math.nan, less_default=math.nan, se=math.nan, answered=0.0
            )
            continue
        difference = np.array([own.mean() - default.mean() for own, default in both])
        yield Row(
            budget=label,
            name=name,
            mean=float(np.mean([own.mean() for own, _ in both])),
            worst=float(np.mean([own.max() for own, _ in both])),
            less_default=float(difference.mean()),
            se=float(difference.std(ddof=1) / math.sqrt(len(both))) if len(both) > 1 else math.nan,
            answered=len(both) / len(found),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    arguments = parser.parse_args()
    print(f"{arguments.subsets} subsets a random budget. Regret in percent; worst: the mean over subsets of the worst")
    print("held-out scale; of Step Law: the mean over Step Law's.")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for by in SPLITS:
            laws = published(by)
            print(f"\nHeld out by {by}\n")
            print("| runs | estimator | mean | worst | less default | of Step Law | answered |")
            print("|---|---|---|---|---|---|---|")
            goal = float(np.mean(laws[STEP_LAW]))
            for name, found in laws.items():
                print(f"| none | {name} | {np.mean(found):.3f} | {max(found):.3f} | | {np.mean(found) / goal:.2f} | |")
            for budget in (*SHARES, PLUS):
                count = 1 if budget == 1.0 else arguments.subsets
                each = list(pool.map(partial(all_regrets, budget, by), range(count), chunksize=2))
                for row in rows(by, budget, each):
                    print(row.markdown(goal), flush=True)


if __name__ == "__main__":
    main()
