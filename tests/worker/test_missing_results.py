"""A script that exits with code 0 before its last step, or without its metric, has no result."""

from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import CODE_ERROR, DIVERGED, DONE, FAILED
from tests.support.scripts import BOWL, execute, plan_of, points, reports

THREE_POINTS = reports(*points(3.0, 2.5, 2.0))


@pytest.mark.parametrize("state", [FAILED, DIVERGED])
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (THREE_POINTS, "it exited with code 0 at step 30, before run.metric.last_step (40)"),
        (reports(), "the metric was never reported: no 'loss' in the lines"),
    ],
)
def test_a_missing_result_counts_as_declared(tmp_path: Path, state: str, script: str, reason: str) -> None:
    plan = plan_of(tmp_path, script, metric={"missing": state, "last_step": 40})
    trial, outcome, folder = execute(plan)
    assert (outcome.state, outcome.loss) == (state, None)
    assert outcome.missing is not None
    assert outcome.missing.startswith(reason)
    failure = (outcome.missing, CODE_ERROR) if state == FAILED else (None, None)
    assert (outcome.error, outcome.cause) == failure
    assert len(read_jsonl(folder.curve_path(trial.id))) == outcome.steps / 10  # nothing is lost


@pytest.mark.parametrize("last_step", [None, 30, "width - 2", "tokens / 1000", "0 * lr"])
def test_a_trial_that_reached_its_last_step_is_done(tmp_path: Path, last_step: Any) -> None:
    _, outcome, _ = execute(plan_of(tmp_path, THREE_POINTS, metric={"last_step": last_step}))
    assert (outcome.state, outcome.loss, outcome.missing) == (DONE, 2.0, None)


def test_the_best_of_a_metric_to_be_maximized_is_its_maximum(tmp_path: Path) -> None:
    metric = {"goal": "maximize", "reduce": "maximum"}
    _, outcome, _ = execute(plan_of(tmp_path, reports(*points(0.3, 0.5, 0.4)), metric=metric))
    assert outcome.loss == 0.5


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"goal": "maximize", "reduce": "minimum"}, "run.metric.reduce is minimum, the worst value of a metric to max"),
        ({"reduce": "maximum"}, "run.metric.reduce is maximum, the worst value of a metric to minimize"),
        ({"missing": "done"}, "run.metric.missing: unknown outcome 'done'"),
        ({"last_step": "stepz * 2"}, "run.metric.last_step: unknown name 'stepz'"),
        ({"key": "accuracy"}, "run.metric.goal must be given for a metric named 'accuracy'"),
        ({"goal": "up"}, "run.metric.goal: unknown goal 'up'"),
    ],
)
def test_a_faulty_metric_is_one_line(tmp_path: Path, metric: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("(", r"\(").replace("*", r"\*")):
        plan_of(tmp_path, BOWL, metric=metric)


def test_estimators_of_ratios_are_refused_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="estimator=nested compares ratios or logarithms"):
        plan_of(tmp_path, BOWL, "estimator=nested", metric={"goal": "maximize"})


def test_how_a_metric_is_read_is_no_part_of_a_trials_identity(tmp_path: Path) -> None:
    """A goal that was forgotten is added to a run without training it again."""
    plain = plan_of(tmp_path)
    read = plan_of(tmp_path, metric={"goal": "maximize", "unit": "points", "last_step": 3, "missing": "diverged"})
    ids = [plan.trial(plan.scales[0], {"lr": 0.01}, 0).id for plan in (plain, read)]
    assert ids[0] == ids[1]
    assert read.target_json()["metric"] == {"name": "loss", "goal": "maximize", "unit": "points"}
