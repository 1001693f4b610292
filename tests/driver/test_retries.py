"""What becomes of a trial goes by why its attempts ended, and a trial's failure never stops the sweep."""

import itertools
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hptransfer.config.retry import RetryConfig
from hptransfer.core.attempts import Attempt, History, read_history
from hptransfer.core.errors import ConfigError
from hptransfer.core.io import write_json
from hptransfer.core.records import (
    CANCELLED,
    CODE_ERROR,
    DONE,
    FAILED,
    KILLED,
    NODE_FAILURE,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIME_LIMIT,
    Job,
    Outcome,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.retries import delay_before_next
from hptransfer.launchers import JobEnd
from tests.support.helpers import ONE_SCALE, outcomes, tiny
from tests.support.scripted import Scripted, advance, drive, train

NO_DELAYS = tuple(f"retry.{cause}.delay_s=0" for cause in ("out_of_memory", "node_failure", "killed"))
ATTEMPTS = {OUT_OF_MEMORY: 2, TIME_LIMIT: 2, NODE_FAILURE: 3, PREEMPTED: 3, KILLED: 3, CANCELLED: 1, CODE_ERROR: 1}


def history(*attempts: tuple[str | None, int], since: int = 0) -> History:
    return History(tuple(Attempt(time=0, cause=cause, step=step) for cause, step in attempts), since)


@pytest.mark.parametrize(("cause", "attempts"), ATTEMPTS.items())
def test_a_cause_that_comes_again_and_again_fails_the_trial_alone(tmp_path: Path, cause: str, attempts: int) -> None:
    config = tiny(tmp_path, "launcher.max_attempts=3", *NO_DELAYS, *ONE_SCALE)
    bad: list[str] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        bad[:] = bad or [job.id]
        return JobEnd(job.id, cause, "so it is", "n3") if job.id == bad[0] else train(folder, job)

    launcher = Scripted(fate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hptransfer.worker.runners.builtin.BuiltinRunner.job_size", lambda *_, **__: 1)
        report = drive(config, launcher)
    assert launcher.attempts(bad[0]) == list(range(1, attempts + 1))
    assert sorted(outcomes(config.folder).values()) == [DONE, DONE, FAILED]
    trial, outcome = next(
        (trial, outcome)
        for trial in config.folder.read_trials()
        if (outcome := config.folder.read_outcome(trial.id)) is not None and outcome.state == FAILED
    )
    assert [failed.id for failed, _ in report.progress.failures] == [trial.id] * (cause != CANCELLED)
    assert (outcome.cause, outcome.attempts) == (cause, attempts)
    assert "n3" in str(outcome.error)
    assert [attempt.cause for attempt in read_history(config.folder, trial.id).attempts] == [cause] * attempts


@pytest.mark.parametrize("cause", [PREEMPTED, TIME_LIMIT])
def test_attempts_that_get_farther_go_on_and_others_do_not(tmp_path: Path, cause: str) -> None:
    config = tiny(tmp_path, "launcher.max_attempts=2", *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        if job.attempt > 8:
            return train(folder, job)
        advance(folder, job, step=job.attempt)
        return JobEnd(job.id, cause)

    launcher = Scripted(fate)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert len(launcher.submitted) == 9


def test_going_over_the_same_steps_again_is_no_progress() -> None:
    rule = RetryConfig().preempted
    assert history((PREEMPTED, 10), (PREEMPTED, 5), (PREEMPTED, 8)).counted(PREEMPTED, progress=rule.progress) == 3
    assert history((PREEMPTED, 10), (PREEMPTED, 15)).counted(PREEMPTED, progress=rule.progress) == 0


def test_a_script_that_restarts_and_hangs_a_step_later_got_no_farther() -> None:
    """Nothing of the first attempt was kept, so the second one ends the trial."""
    ends = ((100, 1.0), (101, 2.0))
    restarted = History([Attempt(time=0, cause=TIME_LIMIT, step=step, began=began) for step, began in ends])
    assert delay_before_next(restarted, RetryConfig(), 5) is None
    resumed = History([Attempt(time=0, cause=TIME_LIMIT, step=step, began=1.0) for step in (100, 101)])
    assert delay_before_next(resumed, RetryConfig(), 5) == 0


def test_an_ended_driver_counts_against_no_trial_and_a_retry_restarts_the_count() -> None:
    many = history((KILLED, 0), (None, 0), (None, 0), (KILLED, 0))
    assert many.counted(KILLED, progress=RetryConfig().killed.progress) == 2
    forgiven = many.forgiven().with_attempt(Attempt(time=0, cause=KILLED))
    assert forgiven.counted(KILLED, progress=RetryConfig().killed.progress) == 1


def test_delays_grow_up_to_half_an_hour() -> None:
    delays = [delay_before_next(history(*[(NODE_FAILURE, 0)] * count), RetryConfig(), 100) for count in (1, 2, 3, 20)]
    assert delays == [30, 60, 120, 1800]


def test_a_delay_is_waited_for(tmp_path: Path) -> None:
    config = tiny(tmp_path, "retry.killed.delay_s=1", *ONE_SCALE)
    launcher = Scripted(lambda folder, job: train(folder, job) if job.attempt > 1 else JobEnd(job.id, KILLED))
    began = time.monotonic()
    drive(config, launcher)
    assert time.monotonic() - began >= 1
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_rule_of_ones_own_is_followed_for_what_a_worker_wrote_itself(tmp_path: Path) -> None:
    config = tiny(tmp_path, "retry.code_error.attempts=3", *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial_id in job.trials:
            attempts = len(read_history(folder, trial_id).attempts) + 1
            failed = Outcome(state=FAILED, error="boom", cause=CODE_ERROR, attempts=attempts, seconds=2.0)
            write_json(folder.outcome_path(trial_id), failed.to_json())
        return JobEnd(job.id)

    launcher = Scripted(fate)
    drive(config, launcher)
    assert [job.attempt for job in launcher.submitted] == [1, 2, 3]
    assert {outcome.attempts for outcome in found(config.folder)} == {3}
    drive(config, launcher)  # the same command again: what failed by rule stays so
    assert len(launcher.submitted) == 3
    drive(tiny(tmp_path, "retry.code_error.attempts=4", *ONE_SCALE), launcher)
    assert len(launcher.submitted) == 4


def found(folder: RunFolder) -> Iterator[Outcome]:
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None
        yield outcome


def test_a_job_keeps_its_id_and_its_trials_through_all_attempts(tmp_path: Path) -> None:
    config = tiny(tmp_path, *NO_DELAYS, *ONE_SCALE)
    launcher = Scripted(lambda folder, job: train(folder, job) if job.attempt > 2 else JobEnd(job.id, NODE_FAILURE))
    drive(config, launcher)
    assert len({(job.id, tuple(job.trials)) for job in launcher.submitted}) == 1
    assert [job.attempt for job in launcher.submitted] == [1, 2, 3]
    assert config.folder.read_job(launcher.submitted[0].id).attempt == 3


@pytest.mark.parametrize(("host", "seconds"), [("n1", 5400.0), (socket.gethostname(), None)])
def test_hours_of_attempts_without_an_outcome_spend_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, seconds: float | None
) -> None:
    """By the launcher's word, as the clock of a node may be behind, or by the lease of this machine."""
    config = tiny(tmp_path, "budget.device_hours=1", "launcher.max_attempts=100", *NO_DELAYS)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        since = job.submitted if seconds is None else job.submitted - 86400
        for trial_id in job.trials:
            folder.lease(trial_id).write_text(json.dumps({"pid": 1, "host": host, "since": since}))
        if seconds is None:
            monkeypatch.setattr("hptransfer.driver.retries.now", lambda: time.time() + 5400)
        return JobEnd(job.id, KILLED, "killed by signal 9", seconds=seconds)

    launcher = Scripted(fate, slots=1)
    report = drive(config, launcher)
    assert len(launcher.submitted) == 1
    assert sum(int(line.rpartition(": ")[2].split()[0]) for line in report.missing) == 6
    assert "open" in outcomes(config.folder).values()
    job = launcher.submitted[0]
    spent = [read_history(config.folder, trial_id).seconds for trial_id in job.trials]
    assert sum(spent) == pytest.approx(5400, abs=60)


def test_a_clock_that_is_ahead_of_this_one_costs_nothing(tmp_path: Path) -> None:
    config = tiny(tmp_path, "budget.device_hours=1", "launcher.max_attempts=2", *NO_DELAYS, *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial_id in job.trials:
            lease = {"pid": 1, "host": "n1", "since": job.submitted}
            folder.lease(trial_id).write_text(json.dumps(lease))
        return JobEnd(job.id, KILLED, "killed by signal 9")

    launcher = Scripted(fate, slots=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hptransfer.driver.retries.now", lambda: time.time() + 5400)
        drive(config, launcher)
    assert {read_history(config.folder, trial.id).seconds for trial in config.folder.read_trials()} == {0.0}


def test_a_clock_that_is_set_back_delays_no_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(tmp_path, *NO_DELAYS, *ONE_SCALE)
    moments = itertools.count(time.time(), -3600.0)
    monkeypatch.setattr("hptransfer.driver.jobs.now", lambda: next(moments))

    def waits(seconds: float) -> None:
        raise AssertionError("the driver waits for a retry that is due")

    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=waits)
    monkeypatch.setattr("hptransfer.driver.driver.time", clock)
    launcher = Scripted(lambda folder, job: train(folder, job) if job.attempt > 1 else JobEnd(job.id, KILLED))
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_checkpoint_of_a_node_whose_clock_is_behind_is_progress() -> None:
    checkpoints = [Attempt(time=0, cause=PREEMPTED, checkpoint=moment) for moment in (200.0, 100.0)]
    assert History(checkpoints).counted(PREEMPTED, progress=True) == 0
    assert History([*checkpoints, checkpoints[-1]]).counted(PREEMPTED, progress=True) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retry.killed.attempts=0", "retry.killed.attempts must be at least 1, got 0"),
        ("retry.killed.delay_s=-1", "retry.killed.delay_s must be at least 0"),
        ("retry.killed.growth=0.5", "retry.killed.growth must be at least 1"),
        ("retry.kiled.attempts=1", "Did you mean 'killed'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(tmp_path, override)
