"""The goal and the unit of a metric, and names that ask for a goal."""

from dataclasses import asdict

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import LOSS, Objective


def test_a_metric_to_be_maximized_is_negated_and_turned_back() -> None:
    accuracy = Objective.of("accuracy", "maximize", None, "goal")
    assert accuracy.minimized(0.9) == -0.9
    assert accuracy.shown(accuracy.minimized(0.9)) == 0.9
    assert LOSS.minimized(2.5) == LOSS.shown(2.5) == 2.5


def test_only_a_metric_with_a_unit_shows_one() -> None:
    assert Objective("loss", unit="nats").label == "loss, nats"
    assert Objective("mse").label == "mse"
    assert (Objective("loss", unit="nats").with_unit("0.1"), Objective("mse").with_unit("0.1")) == ("0.1 nats", "0.1")


@pytest.mark.parametrize("name", ["accuracy", "eval/Accuracy", "valAccuracy", "episode_return", "reward", "f1"])
def test_a_name_that_is_usually_maximized_asks_for_its_goal(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--goal must be given for a metric named .*; give maximize or minimize"):
        Objective.of(name, None, None, "--goal")
    assert not Objective.of(name, "minimize", None, "--goal").maximized


@pytest.mark.parametrize("name", ["loss", "val/loss", "nll", "returned_error", "accurate_loss", "perplexity"])
def test_other_names_are_minimized(name: str) -> None:
    assert Objective.of(name, None, None, "--goal") == Objective(name)


def test_an_unknown_goal_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run.metric.goal: unknown goal 'maximise'. Did you mean 'maximize'"):
        Objective.of("loss", "maximise", None, "run.metric.goal")


def test_earlier_versions_wrote_no_metric() -> None:
    assert Objective.of_target({}).unit == "nats"
    assert Objective.of_target({"command": ["python"]}) == LOSS
    accuracy = Objective("accuracy", "maximize")
    assert Objective.of_target({"metric": asdict(accuracy)}) == accuracy
