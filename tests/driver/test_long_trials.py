"""Trials that run much longer than others of their scale are named once, and ended if that is asked for."""

from pathlib import Path

import pytest

from hptransfer.core.io import read_json
from hptransfer.core.records import Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.checks.long_trials import LongTrials
from hptransfer.driver.trial_index import TrialIndex

SCALE = Scale({"width": 16})


@pytest.fixture
def index(tmp_path: Path) -> TrialIndex:
    """A finished trial of 20 seconds, and one that runs."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    index = TrialIndex(folder, ("lr",))
    for name in ("a", "b"):
        trial = Trial(id=name, scale=SCALE, tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1)
        folder.write_trial(trial)
        index.add(trial)
    index.start(["b"])
    return index


def finish(index: TrialIndex) -> None:
    index.folder.outcome_path("a").write_text("{}")
    index.finish("a", Outcome(state="done", loss=1.0, seconds=20.0), was_open=False, job="")


def test_a_trial_is_named_once_at_five_times_the_longest(index: TrialIndex) -> None:
    finish(index)
    trials = LongTrials(index.folder, index, None)
    assert trials.look({"b"}, 0.0) == []
    assert trials.look({"b"}, 99.0) == []
    [line] = trials.look({"b"}, 101.0)
    assert "has run for 100 s, and no finished trial of its scale took longer than 20 s" in line
    assert "run.timeout_factor=5" in line
    assert trials.look({"b"}, 200.0) == []
    assert not index.folder.limit_path("b").exists()


def test_a_limit_is_written_if_it_is_asked_for(index: TrialIndex) -> None:
    finish(index)
    trials = LongTrials(index.folder, index, 2.0)
    trials.look({"b"}, 0.0)
    assert trials.look({"b"}, 39.0) == []
    assert len(trials.look({"b"}, 41.0)) == 1
    assert read_json(index.folder.limit_path("b"))["seconds"] == 40.0


def test_nothing_is_known_before_a_trial_of_the_scale_is_done(index: TrialIndex) -> None:
    trials = LongTrials(index.folder, index, 2.0)
    trials.look({"b"}, 0.0)
    assert trials.look({"b"}, 1e6) == []


def test_another_attempt_has_its_own_time(index: TrialIndex) -> None:
    finish(index)
    trials = LongTrials(index.folder, index, 2.0)
    trials.look({"b"}, 0.0)
    trials.look(set(), 30.0)
    trials.look({"b"}, 35.0)
    assert trials.look({"b"}, 45.0) == []
