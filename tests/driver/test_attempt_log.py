"""Records of attempts, and the error of a trial that is given up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hptransfer.config.retry import RetryConfig, RetryRule
from hptransfer.core.attempts import Attempt, History, read_history, write_history
from hptransfer.core.io import write_json
from hptransfer.core.records import CANCELLED, CODE_ERROR, FAILED, KILLED, NODE_FAILURE, Job, Outcome, Scale
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.retries import AttemptLog, delay_before_next, describe_failure

TRIAL = "x"
JOB = Job(id="j", trials=[TRIAL], scale=Scale({"width": 16}), params=1, flops=1.0, attempt=2)


class Log:
    """A log of a folder, with the seconds that it adds to the device time."""

    def __init__(self, path: Path, max_attempts: int = 3) -> None:
        self.folder, self.spent = RunFolder(path), 0.0
        self.folder.create()
        self.folder.trial(TRIAL).mkdir()
        index: Any = SimpleNamespace(spend=self._spend)
        self.log = AttemptLog(self.folder, index, RetryConfig(), max_attempts)

    def _spend(self, trial_id: str, seconds: float) -> None:
        assert trial_id == TRIAL
        self.spent += seconds

    def has(self, *attempts: Attempt, since: int = 0) -> History:
        history = History(attempts, since)
        write_history(self.folder, TRIAL, history)
        return history


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def ended(cause: str | None, **values: Any) -> Attempt:
    return Attempt(time=0.0, cause=cause, **values)


def test_the_seconds_of_attempts_are_added_once(log: Log) -> None:
    log.has(ended(KILLED, seconds=10.0), ended(KILLED, seconds=5.0))
    log.log.restore(TRIAL)
    assert log.spent == 15
    history = log.log.add(JOB, TRIAL, KILLED, "signal 9", "n1", 7.0)
    assert log.spent == 22
    assert history == read_history(log.folder, TRIAL)
    last = history.attempts[-1]
    assert (last.cause, last.job, last.number, last.node) == (KILLED, "j", 2, "n1")
    assert (last.detail, last.seconds, last.step) == ("signal 9", 7.0, 0)
    write_json(log.folder.outcome_path(TRIAL), Outcome(state=FAILED).to_json())
    log.log.reset(TRIAL, Outcome(state=FAILED, cause=CODE_ERROR, seconds=3.0, attempts=4), "")
    assert log.spent == 25
    assert not log.folder.outcome_path(TRIAL).exists()
    assert [attempt.cause for attempt in read_history(log.folder, TRIAL).attempts] == [
        KILLED,
        KILLED,
        KILLED,
        CODE_ERROR,
    ]


@pytest.mark.parametrize(
    ("job", "number", "last"), [("j", 2, True), ("j", 1, False), ("i", 2, False)], ids=["both", "number", "job"]
)
def test_a_jobs_attempt_is_recorded_when_its_number_is(log: Log, job: str, number: int, last: bool) -> None:
    assert not log.log.is_last(JOB, TRIAL)
    log.has(ended(KILLED, job="j", number=2), ended(KILLED, job=job, number=number))
    assert log.log.is_last(JOB, TRIAL) is last


def test_forgiven_attempts_are_not_waited_for(log: Log) -> None:
    attempts = [ended(NODE_FAILURE)] * 2
    log.has(*attempts)
    assert log.log.last_delay(TRIAL) == 60
    log.has(*attempts, since=1)
    assert log.log.last_delay(TRIAL) == 30
    log.has(*attempts, since=2)
    assert log.log.last_delay(TRIAL) == 0
    log.has(*attempts, ended(NODE_FAILURE))  # no rule allows another
    assert log.log.last_delay(TRIAL) == 0


def test_an_outcome_counts_as_an_attempt_unless_it_is_recorded(log: Log) -> None:
    outcome = Outcome(state=FAILED, cause=NODE_FAILURE, attempts=3)
    log.has(*[ended(NODE_FAILURE)] * 2)
    assert not log.log.allows_another(TRIAL, outcome)
    assert log.log.allows_another(TRIAL, Outcome(state=FAILED, cause=NODE_FAILURE, attempts=2))
    log.has(*[ended(NODE_FAILURE)] * 3)
    assert not log.log.allows_another(TRIAL, outcome)


@pytest.mark.parametrize(("attempts", "most", "allowed"), [(None, 2, 1), (None, 3, 2), (2, 9, 1), (1, 9, 0)])
def test_a_rule_of_its_own_comes_before_the_launchers(attempts: int | None, most: int, allowed: int) -> None:
    retry = RetryConfig(node_failure=RetryRule(attempts=attempts, delay_s=10, growth=3))
    delays = [delay_before_next(History((ended(NODE_FAILURE),) * count), retry, most) for count in range(1, 4)]
    assert [delay is not None for delay in delays] == [count <= allowed for count in range(1, 4)]
    assert delays[:allowed] == [10, 30][:allowed]
    assert delay_before_next(History((ended(NODE_FAILURE),) * 9 + (ended(None),)), retry, most) == 0


def test_a_trial_that_is_given_up_tells_the_last_cause(log: Log) -> None:
    given_up = log.log.given_up(TRIAL, History((ended(NODE_FAILURE), ended(CODE_ERROR, detail="ValueError"))))
    assert (given_up.state, given_up.cause, given_up.attempts) == (FAILED, CODE_ERROR, 2)
    assert given_up.error == "code error: ValueError"
    assert log.log.given_up(TRIAL, History((ended(None),))).cause == KILLED
    log.has(ended(KILLED), ended(KILLED))
    log.folder.curve_path(TRIAL).write_text('{"step": 7}\n')
    cancelled = log.log.cancelled(TRIAL)
    assert (cancelled.state, cancelled.cause, cancelled.error) == (FAILED, CANCELLED, "cancelled")
    assert (cancelled.attempts, cancelled.steps) == (3, 7)


@pytest.mark.parametrize(
    ("attempts", "since", "text"),
    [
        ([ended(CODE_ERROR)], 0, "code error"),
        ([ended(CODE_ERROR, node="n1")] * 2, 0, "code error on n1, attempt 2"),
        ([ended(CODE_ERROR)] * 2, 1, "code error"),
        ([ended(KILLED), ended(CODE_ERROR, detail="a b")], 0, "code error: a b"),
        (
            [ended(CODE_ERROR), *[ended(KILLED, detail="by signal 9", node="n2")] * 2],
            0,
            "its worker died 2 times while training it, last by signal 9 on n2",
        ),
    ],
)
def test_a_failure_is_described_by_its_last_attempts(attempts: list[Attempt], since: int, text: str) -> None:
    assert describe_failure(History(tuple(attempts), since)) == text
