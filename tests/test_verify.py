"""A verification's numbers, from losses whose optimum is known."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import FitError
from hptransfer.core.io import read_json, write_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, SWEEP, VERIFY, Objective, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.trial_set import TrialSet
from hptransfer.verify import Verification, measure_regret, points_around, verify

SCALE = Scale({"width": 64})
BEST = {"lr": 2.0**-6, "beta": 2.0**-3}
LEAST, CURVATURE = 2.5, 0.04
REUSED = {"lr": 2.0**-4, "beta": 2.0**-3}


def loss_at(tuned: Mapping[str, float]) -> float:
    """Return the loss of a parabola in the logarithms, whose minimum is at BEST."""
    return LEAST + sum(CURVATURE * math.log2(value / BEST[name]) ** 2 for name, value in tuned.items())


def add(folder: RunFolder, tuned: Mapping[str, float], loss: float | None, **changes: Any) -> None:
    """Add a finished trial."""
    values = {"scale": SCALE, "seed": 0, "purpose": VERIFY, "state": DONE if loss is not None else DIVERGED, **changes}
    state = values.pop("state")
    name = f"{len(folder.read_trials()):012d}"
    folder.write_trial(Trial(id=name, tuned=dict(tuned), run={}, flops=1, params=1, **values))
    write_json(folder.outcome_path(name), Outcome(state=state, loss=loss, loss_se=0.1, steps=1).to_json())


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.create()
    return folder


def line(predicted: float, best: float) -> list[float]:
    """Return values around a prediction, of which one is the best."""
    return sorted({canonical(predicted * 2.0**step) for step in range(-2, 3)} | {best})


def verified(folder: RunFolder, *names: str, away: float = 1.0, reused: bool = True) -> Verification:
    """Measure a prediction that is some octaves above the best value of every hyperparameter."""
    predicted = {name: canonical(BEST[name] * 2.0**away) for name in names}
    for name in names:
        for value in line(predicted[name], BEST[name]):
            if name == names[0] or value != predicted[name]:  # the prediction is trained once
                add(folder, {**predicted, name: value}, loss_at({**predicted, name: value}))
    untransferred = {name: REUSED[name] for name in names}
    if reused and len(names) > 1:
        add(folder, untransferred, loss_at(untransferred))
    return measure_regret(folder, SCALE, predicted, untransferred, Objective(unit="nats"))


@pytest.mark.parametrize("away", [1.0, -1.0])
def test_regret_is_the_loss_over_the_least_and_the_error_is_signed(folder: RunFolder, away: float) -> None:
    found = verified(folder, "lr", away=away)
    assert found.best == pytest.approx({"lr": BEST["lr"], "loss": LEAST})
    assert found.regret_nats == pytest.approx(CURVATURE)
    assert found.regret_percent == pytest.approx(100 * CURVATURE / LEAST)
    assert found.error_octaves == pytest.approx({"lr": away})
    assert f"its own best 0.01562 ({away:+.2f} octaves)" in found.summary()
    assert "regret of the prediction 0.0400 nats (1.60% of 2.5000)" in found.summary()


def test_an_accuracy_is_best_where_it_is_largest(folder: RunFolder) -> None:
    for value in line(BEST["lr"] * 2, BEST["lr"]):
        add(folder, {"lr": value}, 3 - loss_at({"lr": value, "beta": BEST["beta"]}))
    accuracy = Objective("accuracy", "maximize")
    found = measure_regret(folder, SCALE, {"lr": BEST["lr"] * 2}, {"lr": BEST["lr"]}, accuracy)
    assert found.best == pytest.approx({"lr": BEST["lr"], "loss": 3 - LEAST})
    assert found.regret_nats == pytest.approx(CURVATURE)
    assert (found.regret_percent, found.untransferred["regret_percent"]) == (None, None)
    assert "regret of the prediction 0.0400 (of 0.5000)" in found.summary()
    assert "reusing the smallest scale's optimum (0.01562): 0.0000" in found.summary()


def test_gains_of_all_hyperparameters_add_up(folder: RunFolder) -> None:
    found = verified(folder, "lr", "beta")
    assert found.best == pytest.approx({**BEST, "loss": LEAST})
    assert found.regret_nats == pytest.approx(2 * CURVATURE)
    assert found.error_octaves == pytest.approx({"lr": 1.0, "beta": 1.0})
    cost = 4 * CURVATURE  # trained, as no curve passes through it
    assert found.untransferred == pytest.approx({**REUSED, "regret_nats": cost, "regret_percent": 100 * cost / LEAST})
    assert "(0.0625, 0.125): 0.1600 nats (6.40%)" in found.summary()


def test_the_cost_of_reuse_is_read_from_the_curve_inside_it_alone(folder: RunFolder, tmp_path: Path) -> None:
    found = verified(folder, "lr", away=0.5)  # to 2^-3.5: 2^-4 is inside, between two points
    assert found.untransferred["regret_nats"] == pytest.approx(4 * CURVATURE, rel=0.05)
    other = RunFolder(tmp_path / "other")
    other.create()
    outside = verified(other, "lr", away=-1.0)  # to 2^-5
    assert outside.untransferred == {"lr": REUSED["lr"], "regret_nats": None, "regret_percent": None}
    assert "diverged, or not tried" in outside.summary()


def test_a_point_is_the_mean_of_its_seeds_and_diverged_with_one_of_them(folder: RunFolder) -> None:
    for value in line(BEST["lr"], BEST["lr"]):
        for seed, more in enumerate((-0.1, 0.1)):
            diverges = seed and value == 4 * BEST["lr"]
            add(folder, {"lr": value}, None if diverges else loss_at({"lr": value}) + more, seed=seed)
    add(folder, {"lr": BEST["lr"]}, 0.5, purpose=SWEEP)
    add(folder, {"lr": BEST["lr"]}, 0.5, scale=Scale({"width": 32}))
    add(folder, {"lr": BEST["lr"]}, None, state=FAILED, seed=7)
    found = measure_regret(folder, SCALE, {"lr": BEST["lr"]}, {"lr": 4 * BEST["lr"]})
    assert [(point["lr"], point["state"]) for point in found.points] == [
        *((BEST["lr"] * 2.0**step, DONE) for step in (-2, -1, 0, 1)),
        (4 * BEST["lr"], DIVERGED),
    ]
    assert [point["loss"] for point in found.points[:4]] == pytest.approx(
        [LEAST + CURVATURE * step**2 for step in (-2, -1, 0, 1)]
    )
    assert found.points[4]["loss"] is None
    assert found.regret_nats == pytest.approx(0)
    assert found.untransferred["regret_nats"] is None


def test_three_values_and_the_prediction_itself_are_needed(folder: RunFolder) -> None:
    for value in (BEST["lr"] / 2, BEST["lr"]):
        add(folder, {"lr": value}, loss_at({"lr": value}))
    message = r"verification at width=64: only 2 of 2 points trained without diverging"
    with pytest.raises(FitError, match=message):
        measure_regret(folder, SCALE, {"lr": BEST["lr"]}, REUSED)
    add(folder, {"lr": BEST["lr"] * 2}, loss_at({"lr": BEST["lr"] * 2}))
    assert measure_regret(folder, SCALE, {"lr": BEST["lr"]}, REUSED).regret_nats == pytest.approx(0)
    add(folder, {"lr": BEST["lr"] / 4}, loss_at({"lr": BEST["lr"] / 4}))
    add(folder, {"lr": 8 * BEST["lr"]}, None)
    with pytest.raises(FitError, match=r"only 4 of 5 points"):
        measure_regret(folder, SCALE, {"lr": 8 * BEST["lr"]}, {"lr": BEST["lr"]})
    assert measure_regret(folder, SCALE, {"lr": BEST["lr"]}, {"lr": BEST["lr"]}).regret_nats == pytest.approx(0)


def test_every_hyperparameter_needs_three_values(folder: RunFolder) -> None:
    for step, other in ((-1, 0), (0, 0), (1, 0), (0, 1)):
        tuned = {"lr": BEST["lr"] * 2.0**step, "beta": BEST["beta"] * 2.0**other}
        add(folder, tuned, loss_at(tuned))
    with pytest.raises(FitError, match=r"only 4 of 4 points trained"):
        measure_regret(folder, SCALE, BEST, REUSED)


def plan_of(grids: Mapping[str, list[float]], largest: float = math.inf) -> Any:
    space = {name: SimpleNamespace(largest=largest, extend=2) for name in grids}
    config = SimpleNamespace(space=space)
    return SimpleNamespace(tuned=tuple(grids), grids=grids, config=config, objective=Objective())


@pytest.mark.parametrize(("ratio", "spacing"), [(2.0**0.5, 0.5), (2.0, 1.0), (16.0, 1.0)])
def test_two_values_on_either_side_with_the_sweeps_spacing_of_at_most_an_octave(ratio: float, spacing: float) -> None:
    points = points_around(plan_of({"lr": [1.0, ratio, ratio**2]}), {"lr": 0.5}, {"lr": 0.5})
    assert points == [pytest.approx((0.5 * 2.0 ** (spacing * step),)) for step in (-2, -1, 0, 1, 2)]


@pytest.mark.parametrize(("reused", "added"), [(0.124, True), (0.125, False), (0.3, False), (2.0, False), (2.1, True)])
def test_the_smallest_scales_optimum_is_trained_outside_the_line(reused: float, added: bool) -> None:
    points = points_around(plan_of({"lr": [1.0, 2.0, 4.0]}), {"lr": 0.5}, {"lr": reused})
    assert ((reused,) in points) == (added or reused in (0.125, 2.0))
    assert len(points) == 5 + added


def test_every_hyperparameter_has_a_line_through_the_prediction() -> None:
    grids = {"lr": [1.0, 2.0, 4.0], "beta": [0.25, 0.5, 1.0]}
    points = points_around(plan_of(grids, largest=1.0), {"lr": 0.25, "beta": 0.5}, {"lr": 0.25, "beta": 0.25})
    assert points == sorted(
        [(0.25 * 2.0**step, 0.5) for step in (-2, -1, 0, 1, 2)]
        + [(0.25, 0.5 * 2.0**step) for step in (-2, -1, 1)]  # at most 1, the largest
    )
    reused = {"lr": 0.5, "beta": 0.25}
    assert len(points_around(plan_of(grids, largest=1.0), {"lr": 0.25, "beta": 0.5}, reused)) == len(points) + 1


@pytest.mark.parametrize("width", [64, 32])
def test_what_was_measured_is_written_shown_and_tracked(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """The target has verification.json, another scale a file of its own."""
    scale, analyzed, summaries = Scale({"width": width}), [], []

    def analyze(of: RunFolder) -> Any:
        analyzed.append((of, folder.verification_of(scale).exists() or folder.verification.exists()))
        found = {"predict": lambda axes: {"lr": BEST["lr"]}, "smallest_optimum": lambda: {"lr": 8 * BEST["lr"]}}
        return SimpleNamespace(summary=lambda: "analysis", **found)

    def train(trial_set: TrialSet) -> Any:
        assert (trial_set.purpose, list(trial_set.points)) == (VERIFY, [scale])
        (bound,) = trial_set.bounds
        points = trial_set.points[scale]
        assert (bound.low, bound.high) == (min(points)[0], max(points)[0])
        assert len(points) == 6  # the smallest scale's optimum is outside the line
        for (value,) in points:
            add(folder, {"lr": value}, loss_at({"lr": value}), scale=scale)
        return SimpleNamespace(unbracketed=["width: best lr"])

    monkeypatch.setattr("hptransfer.verify.analyze_run", analyze)
    plan = plan_of({"lr": [1.0, 2.0, 4.0]})
    plan.target = SCALE
    tracker = SimpleNamespace(summarize=lambda *given: summaries.append(given))
    session: Any = SimpleNamespace(plan=plan, folder=folder, train=train, tracker=tracker)
    summary, verification = verify(session, scale)
    assert summary.unbracketed == ["width: best lr"]
    assert verification.warnings == ["not bracketed: width: best lr"]
    assert "warning: not bracketed: width: best lr" in verification.summary()
    path = folder.verification if scale == SCALE else folder.verification_of(scale)
    written = read_json(path)
    assert (written["scale"], written["regret_nats"]) == ({"width": width}, pytest.approx(0))
    assert written["warnings"] == verification.warnings
    assert folder.verification.exists() == (width == 64)
    assert analyzed == [(folder, False), (folder, True)]  # the report is of after
    ((numbers, files, text),) = summaries
    assert numbers == {
        "verified_regret_nats": verification.regret_nats,
        "verified_regret_percent": verification.regret_percent,
    }
    assert files == [folder.report, path]
    assert text == f"analysis\n{verification.summary()}"
