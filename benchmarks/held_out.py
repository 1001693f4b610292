"""Regret and coverage at held-out scales of public tables, beside baselines.

    python -m benchmarks.held_out [--processes 2]

The largest budgets of six iso-FLOP experiments, and the largest size and budgets of the Step Law study, are left out
and predicted from the rest. Reuse: the best value of the largest scale that is left. Argmin: a power law through the
best runs of all scales. The regret of a value is its loss above the scale's optimum, percent of the loss, on the
response surface fitted to the whole table; the optimum that an interval should hold is that of the same fit. A split
has up to three held-out scales.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit, fit_table
from hptransfer.analysis.optima.scale_optima import Optimum
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.validation import rehearse, widened
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import FitError

DATA = Path(__file__).parent / "data"
ISOFLOPS = Columns(scales=("budget",), tuned=("params",))
STEP_LAW = Columns(scales=("params", "tokens"), tuned=("learning_rate", "batch_size"))
# Experiments whose losses are those of another one of the file, transformed or read anew.
REPEATED = ("llama_3__exp_loss", "epochai_chinchilla__massivetext__chinchilla")
LARGEST = 3
# Error of a held-out optimum up to which it can judge, octaves.
JUDGE_OCTAVES = 0.5


@dataclass(frozen=True)
class Split:
    """Held-out scales of a table, from some value of an axis."""

    experiment: str
    axis: str
    least: float


@dataclass(frozen=True)
class HeldOutScale:
    """Regrets and intervals of one held-out scale.

    Attributes:
        decision, center, reuse, argmin: regrets, percent; center, of the posterior's mean.
        held: by tuned hyperparameter, True if the interval holds the optimum.
        widths: of the intervals, octaves, by tuned hyperparameter.
        below_p90: True if the decision loses less than the bound on the risk.
    """

    decision: float
    center: float
    reuse: float
    argmin: float
    held: tuple[bool, ...]
    widths: tuple[float, ...]
    below_p90: bool


@cache
def whole(experiment: str) -> tuple[pd.DataFrame, Fit]:
    """Return the checked table of an experiment with its fit."""
    if experiment == "step_law":
        table, columns = pd.read_csv(DATA / "lm_lr_batch_sweep.csv"), STEP_LAW
    else:
        runs = pd.read_csv(DATA / "isoflops.csv")
        table, columns = runs[runs["experiment"] == experiment], ISOFLOPS
    table = check_table(table, columns, experiment)
    return table, fit_table(table, columns, draws=1)


def splits() -> Iterator[Split]:
    """Yield all splits."""
    runs = pd.read_csv(DATA / "isoflops.csv")
    for experiment, of_experiment in runs.groupby("experiment"):
        if experiment not in REPEATED:
            yield from (Split(str(experiment), "budget", least) for least in _largest(of_experiment["budget"]))
    table, _ = whole("step_law")
    yield Split("step_law", "params", _largest(table["params"])[-1])
    yield from (Split("step_law", "tokens", least) for least in _largest(table["tokens"]))


def _largest(values: pd.Series[float]) -> list[float]:
    return sorted(map(float, values.unique()))[-LARGEST:]


def baselines(fit: Fit, scale: Axes) -> tuple[Array, Array]:
    """Return log2 of the values by reuse and by argmin."""
    runs = fit.runs
    best = [
        np.flatnonzero(runs.of_scale(index))[np.argmin(runs.loss[runs.of_scale(index)])]
        for index in range(runs.num_scales)
    ]
    x, octaves = runs.x[best], runs.octaves(runs.scales)
    coefficients = np.linalg.lstsq(np.column_stack([np.ones(len(x)), octaves]), x, rcond=None)[0]
    target = np.concatenate([[1.0], runs.octaves([scale])[0]])
    return x[int(np.argmax(octaves.sum(axis=1)))], target @ coefficients


def held_out(split: Split) -> list[HeldOutScale] | None:
    """Return predictions of the held-out scales; None after a refusal."""
    table, full = whole(split.experiment)
    try:
        fit = fit_table(table[table[split.axis] < split.least], full.columns, draws=1)
    except FitError:
        return None
    fit = widened(fit, rehearse(fit))
    scales = [optimum for optimum in full.optima if optimum.axes[split.axis] >= split.least]
    return [_compared(full, fit, optimum) for optimum in scales if (optimum.se < JUDGE_OCTAVES).all()]


def _compared(full: Fit, fit: Fit, optimum: Optimum) -> HeldOutScale:
    decision = decide(fit, optimum.axes)
    reuse, argmin = baselines(fit, optimum.axes)

    def regret(x: Array) -> float:
        return 100 * float(full.excess_loss(optimum.axes, x - optimum.x, optimum.loss)[0]) / optimum.loss

    lost = regret(decision.value)
    return HeldOutScale(
        decision=lost,
        center=regret(decision.center),
        reuse=regret(reuse),
        argmin=regret(argmin),
        held=tuple(map(bool, (decision.low <= optimum.x) & (optimum.x <= decision.high))),
        widths=tuple(map(float, decision.high - decision.low)),
        below_p90=lost <= decision.p90_percent,
    )


def row(split: Split, found: Sequence[HeldOutScale] | None) -> str:
    """Return a row of the table."""
    name = f"| {split.experiment} | {split.axis} from {split.least:.3g} |"
    if not found:
        return f"{name} refused | | | | | | |"
    cells = [np.mean([getattr(one, key) for one in found]) for key in ("decision", "center", "reuse", "argmin")]
    held = [held for one in found for held in one.held]
    width = np.median([width for one in found for width in one.widths])
    bound = sum(one.below_p90 for one in found)
    regrets = " | ".join(f"{cell:.3f}" for cell in cells)
    return f"{name} {regrets} | {sum(held)} of {len(held)} | {width:.2f} | {bound} of {len(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    arguments = parser.parse_args()
    regrets = "regret, % | of the center | of reuse | of argmin"
    print(f"| table | held out | {regrets} | inside 90% | width, octaves | risk holds |")
    print("|---|---|---|---|---|---|---|---|---|")
    everything: list[HeldOutScale] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for split, found in zip(all_splits := list(splits()), pool.map(held_out, all_splits), strict=True):
            print(row(split, found), flush=True)
            everything += found or []
    print(row(Split("all", "scales", 0), everything))


if __name__ == "__main__":
    main()
