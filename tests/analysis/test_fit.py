"""The law: recovered within its intervals, which cover as often as they say."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.fit import DRIFTS, TRANSFERS, UNDECIDED, Exponent, fit_table, hold_out
from hptransfer.analysis.predict import predict_table
from hptransfer.analysis.records import Columns, check_table
from hptransfer.core.errors import FitError
from tests.analysis.landscape import COLUMNS, TARGET, draw

MUP, SP = (-0.1, -0.2, -0.35), (-1.0, -0.2, -0.35)


def test_exponents_are_recovered_within_their_intervals() -> None:
    table, _ = draw(SP, noise=0.003)
    fit = fit_table(table, COLUMNS)
    for (axis, found), power in zip(fit.exponents.items(), SP, strict=True):
        assert found.low <= power <= found.high, axis
        assert found.value == pytest.approx(power, abs=0.1)


def test_mup_transfers_over_width_and_sp_does_not() -> None:
    mup, sp = (fit_table(draw(powers, noise=0.003)[0], COLUMNS) for powers in (MUP, SP))
    assert mup.exponents["width"].verdict == TRANSFERS
    assert sp.exponents["width"].verdict == DRIFTS


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.2, 0.2, TRANSFERS), (0.3, 0.5, DRIFTS), (-0.9, -0.3, DRIFTS), (-0.3, 0.1, UNDECIDED), (-1, 1, UNDECIDED)],
)
def test_verdicts_are_by_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert Exponent((low + high) / 2, low, high, 0.1).verdict == verdict


def coverage(scatter: float, *, counted: bool = True, sweeps: int = 120, **drawn: Any) -> float:
    """Share of simulated sweeps whose 90% interval holds the target's own optimum.

    Args:
        counted: False: the interval of the optima's standard errors alone, as if the law were exact.
    """
    inside = 0
    for seed in range(sweeps):
        table, truth = draw(MUP, scatter=scatter, seed=seed, **drawn)
        fit = fit_table(table, COLUMNS, draws=300)
        x, low, high = fit.predict(TARGET)
        if not counted:
            rows = fit.law.design.matrix([one.cell.axes for one in fit.bracketed])
            weights = np.array([one.se**-2 for one in fit.bracketed])
            there = fit.law.design.matrix([TARGET])[0]
            half = 1.645 * math.sqrt(there @ np.linalg.inv(rows.T @ (rows * weights[:, None])) @ there)
            low, high = x - half, x + half
        inside += low <= truth <= high
    return inside / sweeps


def test_the_interval_covers_the_target() -> None:
    assert 0.83 <= coverage(0.15) <= 0.97


def test_the_interval_errs_on_the_wide_side_where_scales_lie_on_the_law() -> None:
    # That nothing scatters cannot be told from twelve scales; the interval allows for it.
    assert coverage(0.0) >= 0.9


def test_an_interval_without_the_targets_own_scatter_covers_too_rarely() -> None:
    assert coverage(0.15, counted=False) < 0.7


def test_the_interval_covers_the_target_where_seeds_have_levels_and_optima_of_their_own() -> None:
    seeds = {"repeats": 5, "by_seed": (0.05, 0.3)}
    assert 0.83 <= coverage(0.15, **seeds) <= 0.97
    assert coverage(0.0, **seeds) >= 0.88
    assert coverage(0.15, counted=False, **seeds) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.1, 0.15, 0.3])
def test_the_interval_covers_the_target_over_many_sweeps(scatter: float) -> None:
    assert 0.85 <= coverage(scatter, sweeps=500) <= 0.95


def test_the_prediction_is_the_law_at_the_target() -> None:
    table, truth = draw(SP, noise=1e-6)
    row = predict_table(fit_table(table, COLUMNS), pd.DataFrame([TARGET])).iloc[0]
    assert math.log2(row["lr"]) == pytest.approx(truth, abs=1e-3)
    assert row["lr_low"] <= row["lr"] <= row["lr_high"]
    assert row["distance"] == 1
    assert row["loss"] == pytest.approx(2.0 + 2.0 * 8**-0.3 * 4**-0.2, rel=0.05)


def test_a_target_inside_the_grid_has_no_distance() -> None:
    table, _ = draw(MUP)
    inside = {"width": 64, "depth": 2, "tokens": 2**15}
    assert predict_table(fit_table(table, COLUMNS), pd.DataFrame([inside]))["distance"].iloc[0] == 0


def test_the_cost_of_an_unmoved_optimum_grows_with_the_drift() -> None:
    mup, sp = (fit_table(draw(powers, noise=1e-4)[0], COLUMNS) for powers in ((0.0, 0.0, 0.0), SP))
    assert mup.unmoved_cost(mup.optima[-1]) == pytest.approx(0, abs=0.002)
    shift = -1.0 * 2 - 0.2 - 0.35
    assert sp.unmoved_cost(sp.optima[-1]) == pytest.approx(0.03 * shift**2, rel=0.1)
    assert sp.shift_cost(shift) == pytest.approx(0.03 * shift**2, rel=0.1)


def test_the_largest_scale_is_held_out_and_found_again() -> None:
    held = hold_out(fit_table(draw(SP, noise=0.002)[0], COLUMNS))
    assert dict(held.scale) == {"width": 128, "depth": 4, "tokens": 2**16}
    assert held.error_octaves == pytest.approx(0, abs=0.2)
    assert held.covered
    assert held.regret_percent is not None
    assert held.regret_percent < 0.1


def test_a_largest_scale_that_breaks_the_law_is_seen() -> None:
    table, _ = draw(MUP, noise=0.002)
    last = (table["width"] == 128) & (table["depth"] == 4) & (table["tokens"] == 2**16)
    table.loc[last, "lr"] = table.loc[last, "lr"] * 4
    held = hold_out(fit_table(table, COLUMNS))
    assert held.error_octaves == pytest.approx(-2, abs=0.3)
    assert not held.covered


def test_scales_without_a_bracket_stay_out_and_are_named() -> None:
    table, truth = draw(SP, noise=1e-4)
    cut = table[~((table["width"] == 128) & (table["lr"] < 2.0**-7.5))]
    fit = fit_table(cut, COLUMNS)
    assert sum(not one.bracketed for one in fit.optima) == 4
    assert sum("width=128" in warning for warning in fit.warnings) == 4
    assert fit.predict(TARGET)[0] == pytest.approx(truth, abs=0.05)


def test_diverged_runs_stay_out_of_the_fit() -> None:
    table, truth = draw(MUP, noise=1e-4, diverges=2.5)
    assert np.isinf(table["loss"]).any()
    assert fit_table(table, COLUMNS).predict(TARGET)[0] == pytest.approx(truth, abs=0.02)


def test_too_few_scales_are_refused_with_how_many_more() -> None:
    table, _ = draw(MUP)
    few = table[(table["depth"] == 2) & (table["tokens"] == 2**15)]
    one = few[few["width"] == 64]
    two = pd.concat([few[(few["width"] == 32) & (few["lr"] > 2.0**-6)], one])
    with pytest.raises(FitError, match=r"1 scale has a bracketed optimum.*needs 2; 1 more needed.*width=32"):
        fit_table(two, COLUMNS)


def test_a_target_on_an_axis_that_was_not_swept_is_refused() -> None:
    table, _ = draw(MUP)
    fit = fit_table(table[table["depth"] == 2], COLUMNS)
    assert any("only one value of depth" in warning for warning in fit.warnings)
    with pytest.raises(FitError, match=r"no exponent for depth: only depth=2 was swept, the target has 4"):
        fit.predict(TARGET)


def test_as_many_scales_as_parameters_is_said() -> None:
    table, _ = draw(MUP)
    two = table[(table["depth"] == 2) & (table["tokens"] == 2**15) & (table["width"] != 64)]
    fit = fit_table(two, COLUMNS)
    assert any("as many scales as parameters" in warning for warning in fit.warnings)
    assert fit.law.scatter == pytest.approx(0.1)


def test_one_axis_of_any_name_will_do() -> None:
    columns = Columns(scales=("params",), tuned=("learning_rate",), loss="nll")
    rows = [
        {"params": n, "learning_rate": 2.0**k, "nll": 3 + 0.02 * (k + 6 + 0.5 * math.log2(n / 1e6)) ** 2}
        for n in (1e6, 4e6, 1.6e7)
        for k in range(-12, -3)
    ]
    fit = fit_table(check_table(pd.DataFrame(rows), columns, "test"), columns)
    assert fit.exponents["params"].value == pytest.approx(-0.5, abs=0.01)
