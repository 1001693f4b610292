"""Equal failures in a row end a sweep; others, and failures between trials that train, do not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import write_json
from hptransfer.core.records import CANCELLED, CODE_ERROR, DONE, FAILED, Job, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.checks.repeated_failures import RepeatedFailures
from hptransfer.launchers import JobEnd
from tests.support.helpers import outcomes, tiny
from tests.support.scripted import Scripted, drive, train

TRIAL = Trial(id="0", scale=Scale({"width": 16}), tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1)


def failure(error: str, cause: str = CODE_ERROR) -> Outcome:
    return Outcome(state=FAILED, error=error, cause=cause)


def reached(*ends: Outcome, limit: int | None = 3) -> int | None:
    failures = RepeatedFailures(limit)
    for outcome in ends:
        failures.add(TRIAL, outcome)
    return failures.reached.count if failures.reached else None


def test_failures_are_equal_but_for_ids_and_numbers() -> None:
    alike = [
        failure(f"KeyError: no file trials/{name}/a.pt at step {step}")
        for name, step in (("0" * 12, 1), ("ab" * 6, 250))
    ]
    assert reached(*alike, alike[0]) == 3
    assert reached(*alike, failure("KeyError: no folder")) is None


def test_a_trial_that_trains_ends_the_row_and_a_cancelled_one_does_not() -> None:
    same, done = failure("x"), Outcome(state=DONE, loss=1.0)
    assert reached(same, same, done, same, same) is None
    assert reached(same, same, failure("cancelled", CANCELLED), same) == 3


def test_without_a_limit_nothing_stops() -> None:
    assert reached(*[failure("x")] * 50, limit=None) is None


def single_jobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hptransfer.worker.runners.builtin.BuiltinRunner.job_size", lambda *_, **__: 1)


def failing(where: Callable[[Job], bool]) -> Callable[[RunFolder, Job], JobEnd]:
    def fate(folder: RunFolder, job: Job) -> JobEnd:
        if not where(job):
            return train(folder, job)
        for trial in job.trials:
            write_json(folder.outcome_path(trial), failure("too wide").to_json())
        return JobEnd(job.id)

    return fate


def test_three_failures_alike_start_nothing_more_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single_jobs(monkeypatch)
    config = tiny(tmp_path)
    launcher = Scripted(failing(lambda job: job.scale.axes["width"] == 32), slots=1)
    summary = drive(config, launcher)
    assert summary.stopped_by is not None
    assert (summary.stopped_by.count, summary.stopped_by.outcome.error) == (3, "too wide")
    assert summary.missing == ["width=16,depth=1,tokens=4096: 3 trials not run"]
    assert len(launcher.submitted) == 3
    summary = drive(config, Scripted(train))
    assert summary.stopped_by is None
    assert sorted(outcomes(config.folder).values()) == [DONE] * 3 + [FAILED] * 3


def test_stop_after_null_trains_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single_jobs(monkeypatch)
    config = tiny(tmp_path, "retry.stop_after=null")
    assert drive(config, Scripted(failing(lambda job: True), slots=1)).stopped_by is None
    assert set(outcomes(config.folder).values()) == {FAILED}


def test_jobs_that_run_are_trained_to_their_end_and_waiting_ones_are_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler has all six jobs: three fail, one runs, and two wait for a node."""
    single_jobs(monkeypatch)
    config = tiny(tmp_path)
    order: list[str] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        order.extend([] if job.id in order else [job.id])
        if len(order) == 6:
            states = {name: {"state": "RUNNING" if order.index(name) < 4 else "PENDING"} for name in order}
            write_json(folder.jobs / "states.json", {"jobs": states})
        place = order.index(job.id)
        if place < 3:
            return failing(lambda job: True)(folder, job) if len(order) == 6 else None
        return train(folder, job) if place == 3 and launcher.cancelled else None

    launcher = Scripted(fate, slots=6)
    summary = drive(config, launcher)
    assert summary.stopped_by is not None
    assert sorted(outcomes(config.folder).values()) == [DONE, FAILED, FAILED, FAILED, "open", "open"]
    (config.folder.jobs / "states.json").unlink()
    launcher = Scripted(train)
    drive(config, launcher)
    assert sorted(outcomes(config.folder).values()) == [DONE] * 3 + [FAILED] * 3
    assert [job.attempt for job in launcher.submitted] == [2, 2]


def test_a_limit_below_1_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retry.stop_after must be at least 1, got 0; null goes on"):
        tiny(tmp_path, "retry.stop_after=0")
