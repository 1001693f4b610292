"""Numbers and sentences of an analysis, from a fit whose numbers are chosen."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.laws.exponents import Exponent
from hptransfer.analysis.laws.fit import Widening
from hptransfer.analysis.optima.stray_runs import DIVERGED, OUTLIER, ExcludedRun
from hptransfer.analysis.predict import findings as findings_module
from hptransfer.analysis.predict.findings import (
    Findings,
    excluded_sentence,
    extrapolation_sentence,
    fit_json,
    format_percent,
    held_out_sentence,
    prediction_json,
    reuse_sentence,
    risk_sentence,
    widening_warnings,
)
from hptransfer.analysis.predict.ignored_movement import IgnoredLoss, Movement, Range
from hptransfer.analysis.predict.validation import HeldOut
from hptransfer.analysis.tables.response import Response
from hptransfer.core.records import Objective

TUNED = ("lr", "beta")
SMALL, LARGE, TARGET = {"width": 16.0}, {"width": 64.0}, {"width": 256.0}
LOSS = 2.5
NATURAL = Objective(unit="nats")


def optimum(axes: dict[str, float], x: tuple[float, float], diverged: int) -> Any:
    return SimpleNamespace(
        axes=axes,
        x=np.array(x),
        se=np.array([0.1, 0.2]),
        curvature=np.array([0.03, 0.05]),
        status=("bracketed", "edge"),
        loss=3.0,
        runs=7,
        diverged=diverged,
    )


def fit(beyond: float = 2.0, below: float = 0.0) -> Any:
    """A fit with chosen numbers."""
    return SimpleNamespace(
        tuned=TUNED,
        estimator="surface",
        published_priors=[],
        noise=0.01,
        columns=SimpleNamespace(scales=("width",), objective=NATURAL),
        swept=SimpleNamespace(values={"width": [16.0, 64.0]}),
        optima=[optimum(SMALL, (-5.0, -3.0), 1), optimum(LARGE, (-6.0, -3.0), 2)],
        smallest=optimum(SMALL, (-5.0, -3.0), 1),
        runs=SimpleNamespace(
            format_scale=lambda axes: f"width={axes['width']:g}", loss=np.zeros(14), response=Response()
        ),
        mixture=SimpleNamespace(scatter=lambda: np.array([0.1, 0.2]), shares=lambda: {"power": 1.0}),
        exponents={"lr": {"width": Exponent(-0.5, -0.6, -0.4)}, "beta": {"width": Exponent(0.1, -0.2, 0.4)}},
        predict=lambda scale: np.array([[-7.0, -7.5, -6.5], [-3.0, -3.5, -2.5]]),
        extrapolation_octaves=lambda scale: beyond,
        octaves_below=lambda scale: below,
        excluded=[],
        widening=Widening(np.array([1.0, 1.5]), ["", "it missed"]),
    )


def held_out(axes: dict[str, float], covered: tuple[bool, bool] = (True, True), regret: float = 0.8) -> HeldOut:
    nothing = np.zeros(2)
    return HeldOut(axes, 1.0, np.array([0.25, -0.5]), nothing, nothing, covered, nothing, 0.02, regret)


IGNORED = IgnoredLoss(
    Range(0.1, 0.05, 0.2), LOSS, most_measured=1.0, p_diverge=0.0, response=Response(), objective=NATURAL
)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Findings:
    """Findings in which every optimum moves by a factor of 0.25, and every ignored movement costs a tenth of a nat."""
    to_target = Movement(Range(0.25, 0.2, 0.3), IGNORED)
    monkeypatch.setattr(findings_module, "movement", lambda *_: to_target)
    monkeypatch.setattr(findings_module, "loss_of_reuse", lambda *_: IGNORED)
    row: dict[str, Any] = {**TARGET, "loss": LOSS, "loss_low": 2.4, "loss_high": 2.6, "extrapolation_octaves": 2.0}
    for name, x in zip(TUNED, (-7.0, -3.0), strict=True):
        row |= {name: 2.0 ** (x - 0.25), f"{name}_center": 2.0**x}
        row |= {f"{name}_low": 2.0 ** (x - 0.5), f"{name}_high": 2.0 ** (x + 0.5), f"{name}_outside_tried": False}
        row |= {f"{name}_stable_below": math.nan, f"{name}_widened_by": 1.0}
    row |= {"lr_stable_below": 0.02, "lr_outside_tried": True, "beta_widened_by": 1.5}
    row |= {"risk_expected": 0.003, "risk_p90": 0.011, "risk_expected_percent": 0.123, "risk_p90_percent": 0.456}
    row |= {"p_diverge": math.nan}
    return Findings(
        fit=fit(),
        leave_one_out=[held_out(SMALL), held_out(LARGE)],
        larger_from_smaller=[],
        predictions=pd.DataFrame([row]),
        next_runs=[],
        warnings=["careful"],
        uncounted={"failed": 3},
    )


def test_values_are_powers_of_two_of_the_fits(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "decide", lambda *_: SimpleNamespace(value=np.array([-7.0, -3.0])))
    assert findings.predict(TARGET) == {"lr": 2.0**-7, "beta": 2.0**-3}
    assert findings.smallest_optimum() == {"lr": 2.0**-5, "beta": 2.0**-3}
    assert findings.metrics() == {
        "predicted_lr": 2.0**-7.25,
        "predicted_lr_low": 2.0**-7.5,
        "predicted_lr_high": 2.0**-6.5,
        "predicted_beta": 2.0**-3.25,
        "predicted_beta_low": 2.0**-3.5,
        "predicted_beta_high": 2.0**-2.5,
        "predicted_loss": LOSS,
    }


def test_tables_have_a_row_for_every_scale_and_exponent(findings: Findings) -> None:
    optima = findings.optima
    assert list(optima["width"]) == [16, 64]
    assert list(optima["lr"]) == [2.0**-5, 2.0**-6]
    assert list(optima["log2_lr"]) == [-5, -6]
    assert set(optima["log2_beta_se"]) == {0.2}
    assert set(optima["beta_status"]) == {"edge"}
    assert list(optima["diverged"]) == [1, 2]
    assert set(optima["loss"]) == {3.0}
    table = findings.exponents.set_index(["tuned", "axis"])
    lr = table.loc["lr", "width"]
    assert (lr["value"], lr["low"], lr["high"], lr["verdict"]) == (-0.5, -0.6, -0.4, "does not transfer")
    assert lr["moves"]
    assert (lr["factor_to_target"], lr["factor_to_target_low"], lr["factor_to_target_high"]) == (0.25, 0.2, 0.3)
    assert (lr["loss_if_ignored"], lr["loss_if_ignored_low"], lr["loss_if_ignored_high"]) == (0.1, 0.05, 0.2)
    assert lr["loss_if_ignored_percent"] == pytest.approx(4.0)
    assert table.loc["beta", "width"]["verdict"] == "undecided"
    assert not table.loc["beta", "width"]["moves"]
    rows = findings.held_out
    assert list(rows["lr_error_octaves"]) == [0.25, 0.25]
    assert list(rows["beta_error_octaves"]) == [-0.5, -0.5]
    assert set(rows["regret_percent"]) == {0.8}


def test_files_hold_the_same_numbers(findings: Findings) -> None:
    content = fit_json(findings)
    assert content["hyperparameters"]["beta"]["scatter_octaves"] == 0.2
    exponent = content["hyperparameters"]["lr"]["exponents"]["width"]
    assert exponent["verdict"] == "does not transfer"
    assert exponent["moves"] is True
    assert exponent["factor_to_target"] == {"value": 0.25, "low": 0.2, "high": 0.3}
    assert exponent["loss_if_ignored"] == {"value": 0.1, "low": 0.05, "high": 0.2, "p_diverge": 0.0}
    assert content["held_out"][1] == {
        "scale": LARGE,
        "error_octaves": {"lr": 0.25, "beta": -0.5},
        "covered": {"lr": True, "beta": True},
        "regret": 0.02,
        "regret_percent": 0.8,
    }
    prediction = prediction_json(findings)
    assert prediction["target"] == {"width": 256}
    assert type(prediction["target"]["width"]) is int
    assert prediction["hyperparameters"]["beta"] == {
        "value": 2.0**-3.25,
        "center": 2.0**-3,
        "low": 2.0**-3.5,
        "high": 2.0**-2.5,
        "stable_below": None,
        "outside_tried": False,
        "widened_by": {"factor": 1.5, "reason": "it missed"},
    }
    lr = prediction["hyperparameters"]["lr"]
    assert (lr["stable_below"], lr["outside_tried"]) == (0.02, True)
    assert lr["widened_by"] == {"factor": 1.0, "reason": None}
    risk = {"expected": 0.003, "p90": 0.011, "expected_percent": 0.123, "p90_percent": 0.456}
    assert prediction["risk"] == risk
    assert prediction["metric"] == content["metric"] == {"name": "loss", "goal": "minimize", "unit": "nats"}
    assert prediction["p_diverge"] is None
    assert prediction["loss_if_ignored"] == {
        **{"lr": 2.0**-5, "beta": 2.0**-3},
        **{"value": 0.1, "low": 0.05, "high": 0.2, "p_diverge": 0.0},
    }
    assert prediction["loss"] == {"value": LOSS, "low": 2.4, "high": 2.6}
    assert prediction["extrapolation_octaves"] == 2.0
    findings.predictions["width"] = 2.5
    assert prediction_json(findings)["target"] == {"width": 2.5}


def test_the_summary_tells_it_in_sentences(findings: Findings) -> None:
    assert findings.summary().splitlines() == [
        "recommended lr for width=256: 0.00657 (90% interval 0.005524 to 0.01105)",
        "recommended beta for width=256: 0.1051 (90% interval 0.08839 to 0.1768)",
        "Expected to lose 0.12% to the target's own optimum, with 90% probability below 0.46%.",
        "The target lies 2.0 octaves beyond the largest scale that was swept.",
        "3 of 14 runs diverged: counted by scale in optima.csv",
        "rows not used because of their state: 3 failed",
        "lr along width: -0.50 [-0.60, -0.40] moves, does not transfer; a factor of 0.25 (0.2 to 0.3) to the target; "
        "ignoring it would cost 0.1 (0.05 to 0.2) nats, 4% of the loss",
        "beta along width: +0.10 [-0.20, +0.40] may move; a factor of 0.25 (0.2 to 0.3) to the target; ignoring it "
        "would cost 0.1 (0.05 to 0.2) nats, 4% of the loss",
        "reusing the smallest scale's optimum (lr 0.03125, beta 0.125) would cost the target 0.1 (0.05 to 0.2) nats, "
        "4% of the loss",
        held_out_sentence(findings.fit, findings.leave_one_out),
        "warning: careful",
    ]
    quiet = fit()
    quiet.optima = [optimum(SMALL, (-5.0, -3.0), 0), optimum(LARGE, (-6.0, -3.0), 0)]
    quiet.exponents = {"lr": {}, "beta": {}}
    several = pd.concat([findings.predictions] * 3, ignore_index=True)
    text = replace(findings, fit=quiet, predictions=several, uncounted={}, warnings=[]).summary()
    assert "2 more targets in predictions.csv" in text
    assert "along" not in text
    assert not any(word in text for word in ("diverged", "rows not used", "warning"))
    assert "1 more target in predictions.csv" in replace(findings, predictions=several[:2]).summary()


@pytest.mark.parametrize(
    ("beyond", "below", "sentence"),
    [
        (0.0, 0.0, "The target lies inside the swept range: this is interpolation."),
        (0.5, 0.0, "The target lies 0.5 octaves beyond the largest scale that was swept."),
        (0.0, 0.5, "The target lies 0.5 octaves below the smallest scale that was swept."),
        (1.5, 0.5, "The target lies 1.5 octaves beyond the largest scale and 0.5 octaves below the smallest scale that "
         "was swept."),
    ],
)  # fmt: skip
def test_the_distance_of_the_target(beyond: float, below: float, sentence: str) -> None:
    assert extrapolation_sentence(fit(beyond, below), TARGET) == sentence


def test_the_held_out_scale_is_the_largest_one() -> None:
    missing = "The largest scale could not be held out: too few scales are left, or its own optimum is unknown."
    assert held_out_sentence(fit(), []) == missing
    assert held_out_sentence(fit(), [held_out(LARGE), held_out(SMALL)]) == missing
    told = held_out_sentence(fit(), [held_out(SMALL), held_out(LARGE)])
    assert "of the largest one (width=64) is off by +0.25 octaves of lr and -0.50 octaves of beta, 0.0200 nats " in told
    assert told.endswith("(0.80%) of regret; the 90% interval of that prediction covers it.")
    assert "does not cover it" in held_out_sentence(fit(), [held_out(LARGE, (True, False))])
    large = held_out_sentence(fit(), [held_out(LARGE, regret=1.1)])
    assert large.endswith("A regret this large means that these runs do not predict that scale well.")


def test_the_risk_in_words() -> None:
    row = pd.Series({"risk_expected_percent": 0.001, "risk_p90_percent": 12.34, "p_diverge": 0.034})
    assert risk_sentence(row, NATURAL) == (
        "Expected to lose less than 0.01% to the target's own optimum, with 90% probability below 12%; it diverges "
        "with a probability of 3.4%."
    )
    told = [format_percent(percent) for percent in (0.0, 0.0123, 1.0, 99.9)]
    assert told == ["less than 0.01%", "0.012%", "1%", "100%"]


@pytest.mark.parametrize(
    ("nats", "most", "p_diverge", "words", "cell"),
    [
        (Range(0.25, 0.1, 0.5), 1.0, 0.0, "0.25 (0.1 to 0.5) nats, 10% of the loss", "0.25"),
        (
            Range(0.25, 0.1, 0.5), 1.0, 0.2,
            "0.25 (0.1 to 0.5) nats, 10% of the loss, or a divergence with a probability of 20%", "0.25",
        ),
        (Range(0.25, 0.1, 0.5), 1.0, 0.6, "more likely than not a divergence (with a probability of 60%)", "diverges"),
        (
            Range(2.0, 1.5, 9.0), 1.0, 0.0,
            "more than 1 nats, the most that any run lost (extrapolated: 2 (1.5 to 9))", "over 1.00",
        ),
        (Range(2.0, 0.5, 9.0), 1.0, 0.0, "2 (0.5 to 9) nats, 80% of the loss", "2.00"),
        (Range(0.003, 1e-9, 0.01), 1.0, 0.0, "0.003 (0 to 0.01) nats, 0.12% of the loss", "0.00"),
        (Range(1e-5, 1e-9, 1e-4), 1.0, 0.0, "less than 0.01% of the loss", "0.00"),
    ],
)  # fmt: skip
def test_the_loss_of_reuse_in_words(nats: Range, most: float, p_diverge: float, words: str, cell: str) -> None:
    lost = IgnoredLoss(nats, LOSS, most, p_diverge, Response(), NATURAL)
    assert reuse_sentence("lr 0.1", lost) == (
        f"reusing the smallest scale's optimum (lr 0.1) would cost the target {words}"
    )
    assert lost.text(2) == cell
    percent = {"diverges": "diverges", "over 1.00": "over 40%"}.get(cell, f"{100 * nats.value / LOSS:.2g}%")
    assert lost.percent() == percent
    unitless = replace(lost, objective=Objective())
    assert unitless.sentence() == words.replace(" nats", "")
    assert (unitless.text(2), unitless.percent()) == (cell, percent)


@pytest.mark.parametrize(
    ("nats", "words", "unitless"),
    [
        (Range(0.25, 0.1, 0.5), "0.25 (0.1 to 0.5) nats", "0.25 (0.1 to 0.5) of accuracy"),
        (
            Range(2.0, 1.5, 9.0),
            "more than 1 nats, the most that any run lost (extrapolated: 2 (1.5 to 9))",
            "more than 1 of accuracy, the most that any run lost (extrapolated: 2 (1.5 to 9))",
        ),
        (Range(0.0, 0.0, 1e-5), "less than 0.0002 nats", "less than 0.0002 of accuracy"),
    ],
)
def test_a_loss_of_differences_has_no_percentage(nats: Range, words: str, unitless: str) -> None:
    lost = IgnoredLoss(nats, -LOSS, 1.0, 0.0, Response(2.0), NATURAL)
    assert lost.sentence() == words
    assert replace(lost, objective=Objective("accuracy", "maximize")).sentence() == unitless
    assert lost.percent() == ""
    assert replace(lost, p_diverge=0.6).percent() == "diverges"


def test_runs_that_were_left_out_are_named_up_to_four() -> None:
    one = fit()
    one.excluded = [ExcludedRun(7, DIVERGED, 1.5)]
    assert excluded_sentence(one) == "1 run with a finite loss left out: row 7 (diverged, +1.5 nats)"
    one.excluded = [ExcludedRun(row, OUTLIER, -0.25) for row in range(1, 7)]
    told = excluded_sentence(one)
    assert told.startswith("6 runs with a finite loss left out: row 1 (outlier, -0.25 nats), row 2")
    assert told.endswith("row 4 (outlier, -0.25 nats) and 2 more")


def test_a_metric_without_a_percentage_is_told_in_its_own_unit_and_sign() -> None:
    """An accuracy below the surface is shown as lower, without a percentage."""
    accuracy = Objective("accuracy", "maximize")
    row = pd.Series({"risk_expected": 0.0123, "risk_p90": 0.05, "p_diverge": math.nan})
    row["risk_expected_percent"] = row["risk_p90_percent"] = math.nan
    assert risk_sentence(row, accuracy) == (
        "Expected to lose 0.012 of accuracy to the target's own optimum, with 90% probability below 0.05."
    )
    lost = IgnoredLoss(Range(0.25, 0.1, 0.5), -0.8, 1.0, 0.0, Response(0.5), accuracy)
    assert reuse_sentence("lr 0.1", lost).endswith("would cost the target 0.25 (0.1 to 0.5) of accuracy")
    one = fit()
    one.columns.objective, one.runs.response = accuracy, Response(0.5)
    one.excluded = [ExcludedRun(7, DIVERGED, 0.25)]
    assert excluded_sentence(one) == "1 run with a finite loss left out: row 7 (diverged, -0.25)"
    told = held_out_sentence(one, [held_out(LARGE, regret=math.nan)])
    assert "-0.50 octaves of beta, 0.0200 of regret; the" in told
    assert told.endswith("do not predict that scale well.")  # a twenty-fifth of the unit of differences


def test_an_interval_that_was_widened_is_warned_of() -> None:
    assert widening_warnings(fit()) == ["the interval of beta is 1.5 times as wide as the fit alone says: it missed"]
