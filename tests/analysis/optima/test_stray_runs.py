"""Runs that diverged to a finite loss, broke or were misreported neither move the answer nor refuse it."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.optima import residuals
from hptransfer.analysis.optima.stray_runs import DIVERGED, OUTLIER
from hptransfer.analysis.pipeline import analyze_file
from hptransfer.core.errors import FitError
from tests.support.bowls import TARGET, Bowl, answer, power
from tests.support.slow import slow_except

# Octaves above the optimum from which runs diverge.
EDGE = 2.6
UNSTABLE = Bowl(diverges=lambda width: power()(width) + EDGE)
SEEDS = 3


def diverged_runs(factor: float, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One table with an infinite loss where runs diverged, and one with a finite loss.

    Args:
        factor: mean of the finite loss over the scale's least one.
    """
    missing = UNSTABLE.runs(seed=seed, rates=tuple(range(-11, -1)))
    finite, random = missing.copy(), np.random.default_rng([seed, 1])
    least = missing.groupby("width")["loss"].transform("min")
    diverged = np.isinf(missing["loss"])
    noise = np.exp(0.1 * random.standard_normal(diverged.sum()))
    finite.loc[diverged, "loss"] = factor * least[diverged] * noise
    return missing, finite


@pytest.mark.parametrize("factor", [1.4, 3.0])
def test_runs_that_diverged_at_a_finite_loss_answer_as_those_with_a_missing_loss(factor: float) -> None:
    missing, finite = (answer(table) for table in diverged_runs(factor))
    assert finite.overlaps(missing)
    assert finite.center == pytest.approx(missing.center, abs=0.1)


def test_they_are_named_with_row_reason_and_excess(tmp_path: Path) -> None:
    missing, finite = diverged_runs(3.0)
    path, targets = tmp_path / "runs.csv", tmp_path / "targets.csv"
    finite.to_csv(path, index=False)
    pd.DataFrame([TARGET]).to_csv(targets, index=False)
    analyze_file(path, scales=("width",), tuned=("lr",), loss="loss", targets=targets, out=tmp_path / "out")
    excluded = json.loads((tmp_path / "out" / "fit.json").read_text())["excluded_runs"]
    rows = [int(index) + 1 for index in np.flatnonzero(np.isinf(missing["loss"]))]
    assert [run["row"] for run in excluded] == rows
    assert {run["reason"] for run in excluded} == {DIVERGED}
    for run in excluded:
        row = finite.iloc[run["row"] - 1]
        fitted = UNSTABLE.level(row["width"]) * math.exp(UNSTABLE.excess(math.log2(row["lr"]) - power()(row["width"])))
        assert run["excess"] == pytest.approx(row["loss"] - fitted, rel=0.15)


def broken(kind: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table with repeats, and the same where a run or a seed broke."""
    sound, random = Bowl().runs(seed=seed, of_seeds=SEEDS), np.random.default_rng([seed, 2])
    wrong, width = sound.copy(), int(random.choice([128, 256, 512]))
    of_seed = (wrong["width"] == width) & (wrong["seed"] == 1)
    near = of_seed & (np.abs(np.log2(wrong["lr"]) - power()(width)) < 1.5)
    if kind == "repeat":
        wrong.loc[[int(random.choice(np.flatnonzero(near)))], "loss"] *= 1.3
    else:
        wrong.loc[of_seed, "loss"] *= np.exp(random.uniform(0.1, 0.8, of_seed.sum()))
    return sound, wrong


BROKEN = [("repeat", True, 0), ("repeat", False, 0), ("seed", True, 0), ("seed", False, 0)]
MORE = [(kind, column, seed) for kind, column, _ in BROKEN for seed in range(1, 4)]


@pytest.mark.parametrize(("kind", "column", "seed"), slow_except([*BROKEN, *MORE], *BROKEN))
def test_a_run_or_a_seed_that_broke_hardly_moves_the_answer(kind: str, column: bool, seed: int) -> None:
    tables = broken(kind, seed)
    sound, wrong = (answer(table if column else table.drop(columns="seed")) for table in tables)
    assert abs(wrong.center - sound.center) < sound.width / 5
    assert wrong.width < 1.5 * sound.width
    if kind == "repeat":
        (excluded,) = wrong.analysis.fit.excluded
        assert tables[1]["loss"].iloc[int(excluded.row) - 1] != tables[0]["loss"].iloc[int(excluded.row) - 1]
        assert excluded.reason == OUTLIER


def test_without_the_mixture_diverged_runs_move_the_answer_or_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing, finite = diverged_runs(1.4)
    expected = answer(missing)
    monkeypatch.setattr(residuals, "STRAY_SHARE", 1e-300)
    try:
        found = answer(finite)
    except FitError:
        return
    assert abs(found.center - expected.center) > 0.1


def too_good(rates: range, width: int, rate: int, seed: int, size: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of widths and rates, and the same with one run that is this much better than it should be."""
    bowl = Bowl(curvature=0.02, optimum=power(-0.5))
    sound = bowl.runs(rates=tuple(rates), seed=seed, noise=0.004)
    wrong = sound.copy()
    wrong.loc[(wrong["width"] == width) & (wrong["lr"] == 2.0**rate), "loss"] *= math.exp(-size)
    return sound, wrong


@pytest.mark.parametrize("size", slow_except([0.15, 0.3, 0.6], 0.3))
@pytest.mark.parametrize(
    ("rates", "width", "rate"), [(range(-9, -4), 512, -5), (range(-8, -4), 256, -8), (range(-9, -4), 128, -5)]
)
def test_one_run_that_is_too_good_hardly_moves_the_answer(rates: range, width: int, rate: int, size: float) -> None:
    """It lies at the edge of a grid of four or five rates, where it would be the best of its width."""
    sound, wrong = (answer(table) for table in too_good(rates, width, rate, seed=0, size=size))
    assert abs(wrong.center - sound.center) < sound.width / 2
    assert [run.reason for run in wrong.analysis.fit.excluded] == [OUTLIER]
    assert wrong.analysis.fit.excluded[0].excess < 0


@pytest.mark.parametrize("everywhere", [False, True])
def test_all_runs_of_a_seed_that_broke_are_named_with_their_excess(everywhere: bool) -> None:
    """It ended at one level for all rates, as a run that did not learn."""
    sound, random = Bowl().runs(of_seeds=SEEDS), np.random.default_rng(3)
    of_seed = (sound["seed"] == 1) & (everywhere | (sound["width"] == 256))
    wrong = sound.copy()
    wrong.loc[of_seed, "loss"] = 7.5 + 0.3 * random.standard_normal(of_seed.sum())
    found, before = answer(wrong), answer(sound)
    excluded = found.analysis.fit.excluded
    assert [run.row for run in excluded] == [int(index) + 1 for index in np.flatnonzero(of_seed)]
    assert min(run.excess for run in excluded) > 1.5
    assert abs(found.center - before.center) < before.width / 2
    assert found.width < 1.5 * before.width


def test_of_two_seeds_the_one_that_broke_everywhere_is_left_out() -> None:
    """Half of all runs are outliers, but the seeds say which half."""
    sound = Bowl().runs(of_seeds=2)
    wrong = sound.assign(loss=sound["loss"].where(sound["seed"] == 0, 7.5))
    found = answer(wrong)
    assert len(found.analysis.fit.excluded) == len(sound) // 2
    alone = answer(sound[sound["seed"] == 0].drop(columns="seed").reset_index(drop=True))
    assert found.center == pytest.approx(alone.center, abs=alone.width / 4)
