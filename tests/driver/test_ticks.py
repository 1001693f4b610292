"""What a tick costs: nothing is asked again of which nothing new is known, and nothing is forgotten for it."""

from pathlib import Path

import pytest

from hptransfer.core.io import write_json
from hptransfer.core.records import CODE_ERROR, DONE, FAILED, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver import scheduler
from hptransfer.driver.requests import RETRY, Request, write_request
from hptransfer.launchers import JobEnd
from hptransfer.planning.search_space import next_point
from tests.support.helpers import tiny
from tests.support.scripted import Scripted, drive, train

TICKS = 50


def test_a_scale_that_is_bracketed_is_not_asked_again_while_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(scheduler, "next_point", lambda *given: asked.append(given) or next_point(*given))
    left = list(range(TICKS))

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.scale.axes["width"] == 32 and left:
            left.pop()
            return None
        return train(folder, job)

    drive(tiny(tmp_path), Scripted(fate, slots=4))
    assert not left
    assert 2 <= len(asked) < TICKS / 5


def test_a_bracketed_scale_whose_failed_trial_is_reset_is_asked_again(tmp_path: Path) -> None:
    losses = {0.004: 4.0, 0.008: 3.0, 0.016: 4.0, 0.032: 5.0, 0.064: 1.0, 0.128: 6.0}
    config = tiny(tmp_path, f"space.lr.values={list(losses)[:-1]}", "space.lr.extend=6")
    left, failed = list(range(TICKS)), []

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.scale.axes["width"] == 32 and left:  # keeps the driver going
            left.pop()
            if len(left) == TICKS // 2:
                write_request(folder, Request(verb=RETRY, trials=failed))
            return None
        for trial in map(folder.read_trial, job.trials):
            outcome = Outcome(state=DONE, loss=losses[trial.tuned["lr"]], loss_se=0.1, seconds=1.0)
            if trial.tuned["lr"] == 0.064 and not failed:
                failed.append(trial.id)
                outcome = Outcome(state=FAILED, error="so it is", cause=CODE_ERROR)
            if not folder.outcome_path(trial.id).exists():
                write_json(folder.outcome_path(trial.id), outcome.to_json())
        return JobEnd(job.id)

    drive(config, Scripted(fate, slots=4))
    rates = {trial.tuned["lr"] for trial in config.folder.read_trials() if trial.scale.axes["width"] == 16}
    assert rates == set(losses)


WARMUP = ("space.lr.low=null", "space.lr.high=null", "space.lr.count=null", "space.lr.path=run.schedule.warmup")


@pytest.mark.parametrize(
    ("values", "beyond", "why"),
    [
        ([0.05, 0.3, 0.6], 1.2, "run.schedule.warmup must be in [0, 1), a share of the steps, got 1.2"),
        ([0.05, 0.1, 0.2], 0.4, None),
    ],
)
def test_nothing_beyond_an_edge_is_tried_that_cannot_train_or_did_not(
    values: list[float], beyond: float, why: str | None, tmp_path: Path
) -> None:
    """The first breaks a rule of the schedule; the second fails when it is tried. Neither is short of a budget."""
    config = tiny(tmp_path, *WARMUP, f"space.lr.values={values}", "space.lr.extend=6")

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        for trial in map(folder.read_trial, job.trials):
            value = trial.tuned["lr"]
            outcome = Outcome(state=DONE, loss=4.0 - value, loss_se=0.1, seconds=1.0)
            if value not in values:
                outcome = Outcome(state=FAILED, error="so it is", cause=CODE_ERROR)
            write_json(folder.outcome_path(trial.id), outcome.to_json())
        return JobEnd(job.id)

    report = drive(config, Scripted(fate, slots=4))
    tried = {trial.tuned["lr"] for trial in config.folder.read_trials()}
    assert tried == {*values, *([] if why else [beyond])}
    assert report.missing == []
    assert len(report.unbracketed) == 2
    assert all(line.endswith(f"; {why or f'{beyond} failed'}") for line in report.unbracketed)
