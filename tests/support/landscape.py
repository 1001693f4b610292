"""Losses drawn from a known law: parametric landscapes for tests of the analysis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.io import write_json, write_text
from hptransfer.core.records import DONE, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder

COLUMNS = Columns(scales=("width", "depth", "tokens"), tuned=("lr",))
WIDTHS, DEPTHS, TOKENS = (32, 64, 128), (2, 4), (2**15, 2**16)
TARGET = {"width": 256, "depth": 4, "tokens": 2**17}
GRID = tuple(2.0**k for k in range(-12, -2))


def optimum_at(scale: dict[str, float], powers: tuple[float, float, float]) -> float:
    """Return log2 of the best learning rate of a scale by the law."""
    ratios = (scale["width"] / 32, scale["depth"] / 2, scale["tokens"] / 2**15)
    return -6.5 + sum(power * math.log2(ratio) for power, ratio in zip(powers, ratios, strict=True))


def draw(
    powers: tuple[float, float, float],
    *,
    noise: float = 0.004,
    scatter: float = 0.0,
    curvature: float = 0.03,
    seed: int = 0,
    repeats: int = 1,
    by_seed: tuple[float, float] = (0.0, 0.0),
    diverges: float = math.inf,
) -> tuple[pd.DataFrame, float]:
    """Return a table of runs over the grid, and the true log2 optimum of the target.

    Args:
        by_seed: standard deviations over seeds of a scale's loss, in nats, and of its optimum, in octaves.
        scatter: standard deviation of the scales' optima about the law in octaves, including the target's.
        diverges: octaves above the optimum beyond which runs diverge.
    """
    random, of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows = []
    for width, depth, tokens in itertools.product(WIDTHS, DEPTHS, TOKENS):
        scale = {"width": width, "depth": depth, "tokens": tokens}
        centre = optimum_at(scale, powers) + scatter * random.standard_normal()
        best = 2.0 + 2.0 * (width / 32) ** -0.3 * (tokens / 2**15) ** -0.2
        levels, shifts = (spread * of_seeds.standard_normal(repeats) for spread in by_seed)
        for lr, repeat in itertools.product(GRID, range(repeats)):
            x = math.log2(lr) - centre - shifts[repeat]
            loss = best + levels[repeat] + curvature * x**2 + noise * random.standard_normal()
            rows.append({**scale, "lr": lr, "seed": repeat, "loss": math.inf if x > diverges else loss})
    truth = optimum_at(TARGET, powers) + scatter * random.standard_normal()
    return check_table(pd.DataFrame(rows), COLUMNS, "test"), truth


def write_run(
    path: Path,
    table: pd.DataFrame,
    *,
    name: str = "landscape",
    tuned: Sequence[str] = ("lr",),
    parameterization: str = "mup",
) -> RunFolder:
    """Write a run folder with these outcomes, as a driver leaves it."""
    folder = RunFolder(path)
    folder.create()
    target = {
        "name": name,
        "scales": ["width", "depth", "tokens"],
        "tuned": {key: f"run.optimizer.{key}" for key in tuned},
        "complement": [],
        "target": TARGET,
        "params": 3_000_000,
        "flops": 2.6e12,
        "groups": {
            "hidden": {
                "role": "hidden",
                "settings": {"lr": 0.25, "eps": 0.25, "weight_decay": 4.0, "momentum": 1},
                "init_std": 0.5,
                "output_multiplier": 1.0,
            }
        },
        "parameterization": parameterization,
        "decay": "coupled",
        "branch_multiplier": 1.0,
        "fingerprint": "abc",
        "run": {
            "optimizer": {"lr": 0.5, "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9, "beta2": 0.95},
            "constants": {"hidden": {"lr": 1.0, "init": 1.0, "multiplier": 1.0}},
            "branch": {"multiplier": 2.0},
        },
    }
    write_json(folder.target, target)
    write_text(folder.sweep, "name: landscape\n")
    for index, row in table.iterrows():
        add(folder, f"{index:012d}", row, tuned={key: row[key] for key in tuned})
    return folder


def add(folder: RunFolder, name: str, row: Any, **changes: Any) -> None:
    """Add one finished trial to a run folder."""
    axes = {key: int(row[key]) for key in ("width", "depth", "tokens")}
    cost = math.prod(axes.values())
    values = {"scale": Scale(axes), "tuned": {"lr": row["lr"]}, "seed": 0, "run": {}, "flops": cost, "params": cost}
    folder.write_trial(Trial(id=name, **{**values, **changes}))
    outcome = Outcome(state=DONE, loss=row["loss"], loss_se=0.03, steps=128)
    write_json(folder.outcome_path(name), outcome.to_json())
