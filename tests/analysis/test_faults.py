"""Tables with a property on which an earlier version answered wrongly: each in its smallest form."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.pipeline import analyze_file
from tests.support.bowls import TARGET, WIDTHS, Answer, Bowl, answer, power
from tests.support.slow import slow_except

# Octaves between the optimum and the nearest of the five rates.
OFFSETS = (0.0, 0.25, 0.5)


@pytest.mark.parametrize("off", slow_except(OFFSETS, 0.25))
def test_a_steep_bowl_without_noise_is_answered_sharply(off: float) -> None:
    """0.3 in log loss per octave squared, five rates an octave apart, four widths, the optimum the same."""
    bowl = Bowl(curvature=0.3, optimum=lambda width: -6.0 + off)
    found = answer(bowl.runs(rates=tuple(range(-8, -3)), noise=0))
    assert found.center == pytest.approx(-6 + off, abs=0.1)
    assert found.width <= 0.3
    assert found.holds(-6 + off)


@pytest.mark.parametrize("ratio", slow_except([1e-6, 1e-3, 1e3], 1e-3))
def test_a_parabola_whose_height_differs_by_powers_of_ten_is(ratio: float) -> None:
    """The loss at the largest width is this many times that of the smallest."""
    bowl = Bowl(curvature=0.3, optimum=lambda width: -6.0, level=lambda width: ratio ** (math.log2(width / 64) / 3))
    found = answer(bowl.runs(rates=tuple(range(-8, -3)), noise=0))
    assert found.center == pytest.approx(-6, abs=0.1)
    assert found.width <= 0.3


DRIFTING = Bowl(curvature=0.02, optimum=power(-1.0))
RATES = tuple(range(-11, -3))


def test_a_loss_of_reuse_beyond_all_runs_is_named_with_the_most_that_any_lost() -> None:
    found = answer(DRIFTING.runs(rates=RATES), target={"width": 64 * 2**9})
    fit, lost = found.analysis.fit, found.analysis.ignored_loss
    runs = fit.runs.loss
    worst = max(float(runs[fit.runs.of_scale(index)].max()) - optimum.loss for index, optimum in enumerate(fit.optima))
    assert lost.beyond_runs
    assert not lost.diverges
    assert lost.most_measured == pytest.approx(worst, rel=0.02) == pytest.approx(fit.largest_excess)
    assert lost.text(3) == f"over {lost.most_measured:.3f}"
    assert "more than" in found.analysis.summary()
    near = fit.untransferred_cost(fit.optima[1])
    assert not near.capped
    assert near.nats == pytest.approx(fit.optima[1].loss * math.expm1(DRIFTING.curvature), rel=0.3)


def test_reuse_beyond_the_edge_of_divergence_is_called_divergence() -> None:
    unstable = Bowl(curvature=0.02, optimum=power(-1.0), diverges=lambda width: power(-1.0)(width) + 2.4)
    found = answer(unstable.runs(rates=RATES), target={"width": 64 * 2**6})
    lost = found.analysis.ignored_loss
    assert lost.diverges
    assert lost.text(3) == lost.percent() == "diverges"
    assert "would cost the target more likely than not a divergence" in found.analysis.summary()
    assert not found.analysis.fit.untransferred_cost(found.analysis.fit.optima[1]).diverges
    assert (found.analysis.exponents["p_diverge_if_ignored"] > 0.5).tolist() == [True]


def test_a_tuned_column_with_one_value_is_kept(tmp_path: Path) -> None:
    table = Bowl().runs().assign(weight_decay=0.1)
    paths = tmp_path / "runs.csv", tmp_path / "targets.csv"
    table.to_csv(paths[0], index=False)
    pd.DataFrame([TARGET]).to_csv(paths[1], index=False)
    predictions = []
    for tuned in (("lr", "weight_decay"), ("lr",)):
        out = tmp_path / "-".join(tuned)
        analyze_file(paths[0], scales=("width",), tuned=tuned, loss="loss", targets=paths[1], out=out)
        predictions.append(json.loads((out / "prediction.json").read_text())["hyperparameters"])
    both, alone = predictions
    assert both["lr"] == alone["lr"]
    assert both["weight_decay"] == {"value": 0.1, "fixed": True}
    assert "fixed" not in both["lr"]


def two(beyond: float, seed: int = 0) -> tuple[Answer, Answer]:
    """Answers for lr of a table with a second column, and of the line through its best value alone.

    Args:
        beyond: octaves by which the optimum of the second column lies above its largest value.
    """
    random, rows = np.random.default_rng(seed), []
    for width in WIDTHS:
        for x in range(-9, -3):
            for y in range(-6, -2):
                excess = 0.015 * (x - power()(width)) ** 2 + 0.01 * (y - (-3 + beyond)) ** 2
                loss = (2 + 2 * (width / 64) ** -0.3) * math.exp(excess + 0.001 * random.standard_normal())
                rows.append({"width": width, "lr": 2.0**x, "weight_decay": 2.0**y, "loss": loss})
    table = pd.DataFrame(rows)
    line = table[table["weight_decay"] == 2.0**-3].drop(columns="weight_decay").reset_index(drop=True)
    return answer(table, tune=["lr", "weight_decay"]), answer(line)


@pytest.mark.parametrize("beyond", slow_except([1.0, 3.0, 6.0], 3.0))
def test_of_two_columns_one_with_its_optimum_beyond_the_grid_leaves_the_other(beyond: float) -> None:
    both, alone = two(beyond)
    assert both.center == pytest.approx(alone.center, abs=0.15)
    assert both.overlaps(alone)
    assert any("weight_decay" in warning for warning in both.analysis.warnings)


# Steep bowls whose optimum moves from width to width. Near the rough optimum they look flat, and a wrong surface can
# pass through a few exact runs.
MOVING = Bowl(curvature=0.3, optimum=power(-0.5))


@pytest.mark.parametrize(("noise", "seed"), slow_except([(0.0, 0), *((0.002, seed) for seed in range(5))], (0.0, 0)))
def test_a_steep_bowl_whose_optimum_moves_is_answered_sharply(noise: float, seed: int) -> None:
    found = answer(MOVING.runs(rates=tuple(range(-8, -2)), noise=noise, seed=seed))
    truth = MOVING.optimum(TARGET["width"])
    assert found.center == pytest.approx(truth, abs=0.1)
    assert found.holds(truth)
    assert found.width <= 0.4
    assert not found.analysis.fit.excluded


def saturated(*without: int) -> pd.DataFrame:
    """Losses of three depths that are near one ceiling far from a best batch size of 2^10.2, without some rows."""
    rows = []
    for depth, height in ((4, 0.01), (8, 0.3), (16, 1.0)):
        for batch in (128, 256, 512, 1024, 2048):
            gain = height * math.exp(-1.2 * (math.log2(batch / 1024) - 0.2) ** 2)
            rows.append({"depth": depth, "batch_size": batch, "loss": 1000 * math.exp(-gain)})
    return pd.DataFrame(rows).drop(index=list(without))


@pytest.mark.parametrize("row", [0, 5, 6, 10, 11])
def test_losses_near_a_ceiling_are_answered_alike_without_one_run(row: int) -> None:
    whole, part = (
        answer(table, scale=["depth"], tune=["batch_size"], target={"depth": 64})
        for table in (saturated(), saturated(row))
    )
    assert whole.holds(10.2)
    assert part.holds(10.2)
    assert abs(part.center - whole.center) < whole.width / 2
