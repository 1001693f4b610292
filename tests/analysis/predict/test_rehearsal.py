"""The rehearsal: intervals are widened where larger scales were missed from smaller ones, and only there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hptransfer.analysis.laws.fit import Widening
from hptransfer.analysis.predict.findings import held_out_sentence, prediction_json
from hptransfer.analysis.predict.validation import LEAST_FACTOR, leave_one_out, rehearse, widened
from hptransfer.analysis.report.page import render
from hptransfer.analysis.report.run_context import RunContext
from tests.support.bowls import MIDDLE, Answer, Bowl, answer
from tests.support.slow import slow_except

WIDTHS = tuple(64 * 2**octave for octave in range(8))
LARGEST = {"width": 64 * 2**8}


def jumping(seed: int, jump: float = 1.0) -> Answer:
    """An answer from scales of which the largest jump off the law, which is no smooth bend."""
    bowl = Bowl(optimum=lambda width: MIDDLE - 0.2 * math.log2(width / 64) + jump * (width >= WIDTHS[-2]))
    return answer(bowl.runs(widths=WIDTHS, seed=seed), target=LARGEST)


def test_a_table_whose_largest_scales_jump_has_wider_intervals_and_says_why() -> None:
    found = jumping(0)
    prediction = prediction_json(found.analysis)["hyperparameters"]["lr"]
    factor, reason = prediction["widened_by"]["factor"], prediction["widened_by"]["reason"]
    assert factor > LEAST_FACTOR
    assert "larger optima lay outside the 90% interval" in reason
    assert reason in render(found.analysis, RunContext(title="test", uncounted={}))
    assert any(reason in warning for warning in found.analysis.warnings)


def test_a_widened_interval_is_as_many_times_as_wide_about_the_same_value() -> None:
    fit = jumping(0).analysis.fit
    plain = replace(fit, widening=Widening.none(1)).predict({"width": 1024.0})[0]
    wide = replace(fit, widening=Widening(np.array([2.0]), ["test"])).predict({"width": 1024.0})[0]
    assert wide[0] == plain[0]
    assert wide - wide[0] == pytest.approx(2 * (plain - plain[0]))


@pytest.mark.parametrize(("seeds", "fewest"), slow_except([(3, 2), (10, 8)], (3, 2)))
def test_a_clean_table_keeps_its_intervals(seeds: int, fewest: int) -> None:
    factors = [jumping(seed, jump=0.0).analysis.predictions["lr_widened_by"].iloc[0] for seed in range(seeds)]
    assert sum(factor == 1 for factor in factors) >= fewest
    assert max(factors) < 1.5


def test_what_a_scale_expected_enters_in_units_of_its_interval() -> None:
    """The factor is the root of the mean square over sets, with three sets without a miss."""
    found = jumping(0)
    sets = rehearse(found.analysis.fit)
    squares = [np.mean([one.squares[0] for one in of_set]) for of_set in sets]
    expected = math.sqrt((3 + sum(squares)) / (3 + len(squares)))
    assert widened(found.analysis.fit, sets).widening.factor[0] == pytest.approx(expected)
    assert widened(found.analysis.fit, []).widening is found.analysis.fit.widening


def test_a_large_regret_of_the_held_out_scale_is_called_so() -> None:
    far = Bowl(curvature=0.03, optimum=lambda width: MIDDLE + 2.0 * (width >= WIDTHS[3]))
    bad = answer(far.runs(widths=WIDTHS[:4]), target={"width": 1024}).analysis
    assert leave_one_out(bad.fit)[-1].regret_percent > 1
    assert "do not predict that scale well" in held_out_sentence(bad.fit, bad.leave_one_out)
    good = answer(Bowl().runs()).analysis
    assert good.leave_one_out[-1].regret_percent < 1
    assert "well" not in held_out_sentence(good.fit, good.leave_one_out)
