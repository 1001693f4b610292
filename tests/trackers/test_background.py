"""The tracker's thread: the driver never waits for it, and it retries as long as the driver lives."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hptransfer.core.io import append_jsonl, write_json
from hptransfer.core.records import DONE, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import BackgroundTracker, CurvePoints, RefusedError, SweepResults, Tracker, _background
from tests.support.waiting import wait_until

OUTCOME = Outcome(state=DONE, loss=1.0)


class Fake(Tracker):
    """A store in a list. `trouble` is called before each write, with what is to be written."""

    def __init__(self, trouble: Callable[[str], None] = lambda _: None) -> None:
        self.written: list[str] = []
        self.trouble = trouble

    def follow(self, trial: Trial, curve: CurvePoints) -> None:
        self._write(f"{trial.id}:{len(curve)}")

    def log(self, trial: Trial, outcome: Outcome, curve: CurvePoints) -> None:
        self._write(trial.id)

    def summarize(self, summary: SweepResults) -> None:
        self._write("summary")

    def close(self) -> None:
        self._write("close")

    def _write(self, what: str) -> None:
        self.trouble(what)
        self.written.append(what)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_background, "RETRY_S", 0.01)
    monkeypatch.setattr(_background, "FOLLOW_S", 0.05)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run")
    found.create()
    return found


def trial(folder: RunFolder, name: str, *, finished: bool = True) -> Trial:
    made = Trial(id=name, scale=Scale({"width": 1}), tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1)
    folder.write_trial(made)
    if finished:
        write_json(folder.outcome_path(name), OUTCOME.to_json())
    return made


@contextmanager
def running(fake: Fake, folder: RunFolder) -> Iterator[BackgroundTracker]:
    background = BackgroundTracker(lambda: fake, folder)
    try:
        yield background
    finally:
        background.close()
        background._thread.join()


def test_all_that_is_queued_is_written_and_then_the_end(folder: RunFolder) -> None:
    fake = Fake()
    with running(fake, folder) as background:
        background.summarize({"a": 1.0}, [])
        for name in ("a", "b"):
            background.log(trial(folder, name), OUTCOME)
    assert background.missing is None
    assert set(fake.written[:-1]) == {"a", "b", "summary"}
    assert fake.written[-1] == "close"


def test_the_driver_does_not_wait_for_a_store_that_hangs(folder: RunFolder) -> None:
    hang = threading.Event()
    fake = Fake(lambda _: hang.wait(100) and None)
    many = [trial(folder, f"t{number}") for number in range(50)]
    with running(fake, folder) as background:
        for one in many:
            background.started(one.id)
            background.log(one, OUTCOME)
        assert fake.written == []
        hang.set()
    assert sorted(fake.written[:-1]) == sorted(one.id for one in many)


def test_what_fails_is_tried_again_and_holds_nothing_up(folder: RunFolder) -> None:
    failures = {"bad": 3}

    def trouble(what: str) -> None:
        if failures.get(what, 0):
            failures[what] -= 1
            raise OSError("not now")

    fake = Fake(trouble)
    with running(fake, folder) as background:
        for name in ("bad", "good", "fine"):
            background.log(trial(folder, name), OUTCOME)
    assert sorted(fake.written[:-1]) == ["bad", "fine", "good"]
    assert fake.written.index("good") < fake.written.index("bad")
    assert background.missing is None


def test_what_never_works_is_said_without_its_password(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failures alone end the wait."""
    monkeypatch.setattr(_background, "FAILING_STORE_WAIT_S", 0.3)
    for name in ("IDLE_STORE_WAIT_S", "CLOSE_WAIT_S"):
        monkeypatch.setattr(_background, name, float("inf"))

    def trouble(what: str) -> None:
        if what == "bad":
            raise OSError("cannot reach postgresql://me:hunter2@db/x")

    fake = Fake(trouble)
    with running(fake, folder) as background:
        for name in ("bad", "good"):
            background.log(trial(folder, name), OUTCOME)
        wait_until(lambda: fake.written, "what works", progress=lambda: len(fake.written))
    assert background.missing == "1 trials; OSError: cannot reach postgresql://me:***@db/x"
    assert fake.written == ["good"]


def test_nothing_waits_behind_what_the_store_refuses(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again before the next start."""
    monkeypatch.setattr(_background, "FAILING_STORE_WAIT_S", float("inf"))

    def trouble(what: str) -> None:
        if what in ("bad", "worse"):
            raise RefusedError("metrics[3].name is too long")

    fake = Fake(trouble)
    with running(fake, folder) as background:
        for name in ("bad", "good", "worse"):
            background.log(trial(folder, name), OUTCOME)
        background.summarize({"a": 1.0}, [])
    assert fake.written == ["good", "summary", "close"]
    assert background.missing == "trial bad and 1 more, which it refuses; RefusedError: metrics[3].name is too long"


def test_a_trial_that_is_reset_is_not_written(folder: RunFolder) -> None:
    fake = Fake()
    with running(fake, folder) as background:
        background.log(trial(folder, "gone", finished=False), OUTCOME)
    assert fake.written == ["close"]
    assert background.missing is None


def test_running_curves_are_written_as_they_grow_and_not_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = BackgroundTracker._follow
    looks: list[Tracker] = []

    def counted(background: BackgroundTracker, tracker: Tracker) -> None:
        follow(background, tracker)
        looks.append(tracker)

    def wait_for_looks(count: int) -> None:
        seen = len(looks)
        wait_until(lambda: len(looks) >= seen + count, "looks at the curves", progress=lambda: len(looks))

    monkeypatch.setattr(BackgroundTracker, "_follow", counted)
    fake = Fake()
    one = trial(folder, "one", finished=False)
    with running(fake, folder) as background:
        background.started(one.id)
        append_jsonl(folder.curve_path(one.id), [{"step": 0}])
        wait_for_looks(4)
        append_jsonl(folder.curve_path(one.id), [{"step": 1}])
        wait_for_looks(4)
        write_json(folder.outcome_path(one.id), OUTCOME.to_json())
        background.log(one, OUTCOME)
    assert fake.written == ["one:1", "one:2", "one", "close"]
