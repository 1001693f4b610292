"""Cancel and retry, from any shell, whether a driver runs or not; and drivers that end in the middle."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import optuna
import pytest

from hptransfer.cli.main import main
from hptransfer.core.attempts import read_history
from hptransfer.core.io import write_json
from hptransfer.core.locks import lock
from hptransfer.core.records import CANCELLED, CODE_ERROR, DONE, FAILED, KILLED, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.jobs import JobManager
from hptransfer.driver.requests import CANCEL, RETRY, Request, read_requests, write_request
from hptransfer.launchers import JobEnd
from tests.support.helpers import ONE_SCALE, outcomes, tiny
from tests.support.scripted import Scripted, drive, playing, train
from tests.support.views import studies


def verb(launcher: Scripted, *arguments: str) -> None:
    """Runs the command line in this process."""
    with playing(launcher), pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def by_width(folder: RunFolder) -> dict[float, set[str]]:
    found: dict[float, set[str]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        found.setdefault(trial.scale.axes["width"], set()).add(outcome.state if outcome else "open")
    return found


def asks(
    request: Request, then: Callable[[RunFolder, Job], JobEnd | None]
) -> Callable[[RunFolder, Job], JobEnd | None]:
    """A fate that leaves a request when the first job runs."""

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if not asked:
            asked.append(write_request(folder, request))
        return then(folder, job)

    asked: list[Path] = []
    return fate


def test_a_scale_is_cancelled_while_its_driver_runs_and_others_go_on(tmp_path: Path) -> None:
    config = tiny(tmp_path, "space.lr.extend=5")
    request = Request(verb=CANCEL, scale={"width": 32})
    launcher = Scripted(asks(request, lambda f, job: train(f, job) if job.scale.axes["width"] == 16 else None))
    drive(config, launcher)
    assert by_width(config.folder) == {16: {DONE}, 32: {FAILED}}
    outcome = next(o for t in config.folder.read_trials() if (o := config.folder.read_outcome(t.id)) and o.cause)
    assert (outcome.cause, outcome.error) == (CANCELLED, "cancelled")
    assert read_requests(config.folder) == []
    assert launcher.running == {}


def test_cancelling_everything_ends_the_sweep_and_the_same_command_trains_none_of_it(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    launcher = Scripted(asks(Request(verb=CANCEL), lambda folder, job: None), slots=1)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {FAILED}
    before = len(launcher.submitted)
    drive(config, Scripted(train))
    assert (before, set(outcomes(config.folder).values())) == (1, {FAILED})


def test_one_trial_of_a_stack_is_cancelled_and_its_job_goes_on_with_the_others(tmp_path: Path) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    chosen: list[str] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.attempt == 1:
            if not chosen:
                chosen.append(job.trials[1])
                write_request(folder, Request(verb=CANCEL, trials=chosen))
            return None
        return train(folder, job)

    launcher = Scripted(fate)
    drive(config, launcher)
    states = outcomes(config.folder)
    assert states.pop(chosen[0]) == FAILED
    assert set(states.values()) == {DONE}
    assert [(job.attempt, len(job.trials)) for job in launcher.submitted] == [(1, 3), (2, 3)]
    assert all(outcome and outcome.attempts in (1, 2) for outcome in map(config.folder.read_outcome, states))


def test_without_a_driver_the_verb_cancels_the_jobs_that_still_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path)
    launcher = interrupted(config.folder, config)
    assert len(launcher.running) == 1
    verb(launcher, "cancel", str(config.folder.path), "--scale", "width=32")
    assert "3 trials cancelled" in capsys.readouterr().out
    assert by_width(config.folder) == {16: {"open"}, 32: {FAILED}}
    assert launcher.running == {}
    launcher.fate = train
    drive(config, launcher)
    assert by_width(config.folder) == {16: {DONE}, 32: {FAILED}}


@pytest.mark.parametrize(("answer", "cancelled"), [("n", False), ("", False), ("y", True)])
def test_cancelling_asks_first_on_a_terminal(
    tmp_path: Path, answer: str, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = interrupted(config.folder, config)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    verb(launcher, "cancel", str(config.folder.path))
    assert "cancel 3 unfinished trials of" in asked[0]
    assert set(outcomes(config.folder).values()) == {FAILED if cancelled else "open"}


def interrupted(folder: RunFolder, config: object) -> Scripted:
    """A run whose driver was interrupted while a job of the largest scale was running, which goes on."""
    launcher = Scripted(lambda folder, job: None, slots=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripted, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(config, launcher)  # type: ignore[arg-type]
    return launcher


def test_a_job_that_outlived_its_driver_is_taken_up_and_not_submitted_again(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    launcher = interrupted(config.folder, config)
    launcher.fate = train
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert [job.attempt for job in launcher.submitted] == [1, 1]


@pytest.mark.parametrize("known", [True, False])
def test_a_driver_that_ends_while_it_submits_neither_loses_nor_doubles_a_job(tmp_path: Path, known: bool) -> None:
    """Known: the scheduler took the job before the driver ended."""
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = Scripted(train)
    submit = Scripted.submit

    def killed(self: Scripted, jobs: list[Job]) -> None:
        if known:
            submit(self, jobs)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripted, "submit", killed)
        with pytest.raises(KeyboardInterrupt):
            drive(config, launcher)
    (job,) = (config.folder.read_job(path.stem) for path in config.folder.jobs.glob("*.json"))
    assert job.scheduler is None
    drive(config, launcher)
    assert [(other.id, other.attempt) for other in launcher.submitted] == [(job.id, 1 if known else 2)]
    assert set(outcomes(config.folder).values()) == {DONE}


def failing(folder: RunFolder, job: Job) -> JobEnd:
    """Trials with the lowest rate raise, others train."""
    for trial_id in job.trials:
        if folder.read_trial(trial_id).tuned["lr"] < 0.005 and not folder.outcome_path(trial_id).exists():
            failed = Outcome(state=FAILED, error="boom", cause=CODE_ERROR)
            write_json(folder.outcome_path(trial_id), failed.to_json())
    return train(folder, job)


def test_failed_trials_are_reset_by_their_cause_and_trained_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path)
    drive(config, Scripted(failing))
    verb(Scripted(), "retry", str(config.folder.path), "--cause", "killed")
    assert "nothing to retry" in capsys.readouterr().out
    verb(Scripted(), "retry", str(config.folder.path), "--cause", "code error")
    assert "2 trials reset; run `hptransfer sweep` again to train them" in capsys.readouterr().out
    back = [trial for trial, state in outcomes(config.folder).items() if state == "open"]
    assert [read_history(config.folder, trial).attempts[0].detail for trial in back] == ["boom", "boom"]
    launcher = Scripted(train)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert {job.attempt for job in launcher.submitted} == {2}
    shown = [t for study in studies(config.folder).values() for t in study.trials if t.user_attrs["trial"] == back[0]]
    assert [trial.state for trial in shown] == [optuna.trial.TrialState.COMPLETE]
    drive(config, launcher)
    assert [len(study.trials) for study in studies(config.folder).values()] == [3, 3]


def test_a_running_driver_trains_reset_trials_again(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    seen: list[str] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        if len(launcher.submitted) == 2 and not seen:  # the first job is over
            seen.append(str(write_request(folder, Request(verb=RETRY))))
        return failing(folder, job) if not seen else train(folder, job)

    launcher = Scripted(fate, slots=1)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert [job.attempt for job in launcher.submitted] == [1, 1, 2]


class Remembers(Scripted):
    """Takes up every job that it ever knew, as a scheduler's records tell of jobs that ended long ago."""

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        self.running |= {job.id: job for job in jobs if job.scheduler}
        return set(self.running)


def test_a_cancelled_job_that_is_reset_without_a_driver_is_not_cancelled_again_by_its_old_record(
    tmp_path: Path,
) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = Remembers(lambda f, job: JobEnd(job.id, CANCELLED) if job.attempt == 1 else train(f, job))
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {FAILED}
    verb(launcher, "retry", str(config.folder.path), "--cause", CANCELLED)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    (job,) = {job.id for job in launcher.submitted}
    assert launcher.attempts(job) == [1, 2]


def test_an_end_that_was_counted_before_the_driver_ended_is_not_counted_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = Remembers(lambda f, job: JobEnd(job.id, KILLED) if job.attempt == 1 else train(f, job))
    submit_due = JobManager.submit_due

    def end_before_it(self: JobManager) -> None:
        if self.delayed:
            raise KeyboardInterrupt
        submit_due(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobManager, "submit_due", end_before_it)
        with pytest.raises(KeyboardInterrupt):
            drive(config, launcher)
    drive(config, launcher)
    histories = [read_history(config.folder, trial.id) for trial in config.folder.read_trials()]
    assert [[attempt.number for attempt in history.attempts] for history in histories] == [[1]] * 3
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_reset_trial_has_all_its_attempts_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "launcher.max_attempts=2", "retry.killed.delay_s=0", *ONE_SCALE)
    launcher = Scripted(lambda folder, job: JobEnd(job.id, KILLED, "killed by signal 9"))
    drive(config, launcher)
    verb(launcher, "retry", str(config.folder.path))
    drive(config, launcher)
    assert [job.attempt for job in launcher.submitted] == [1, 2, 3, 4]
    errors = {o.error for t in config.folder.read_trials() if (o := config.folder.read_outcome(t.id))}
    assert errors == {"its worker died 2 times while training it, last killed by signal 9"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cancel", "--scale", "widht=16"), "unknown axis 'widht'. Did you mean 'width'?"),
        (("cancel", "--scale", "width=a"), "--scale width must be a number"),
        (("cancel", "--scale", "width=16", "width=32"), "--scale width is given twice, as 16 and 32; give it once"),
        (("cancel", "--trial", "zz"), "has no trial 'zz'"),
        (("retry", "--cause", "oom"), "unknown cause 'oom'"),
    ],
)
def test_a_choice_of_what_there_is_not_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    drive(config, Scripted(train))
    with pytest.raises(SystemExit) as end:
        main([arguments[0], str(config.folder.path), *arguments[1:]])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_others_of_a_scale_wait_for_its_pilot_trial_and_stay_if_it_fails(tmp_path: Path) -> None:
    config = tiny(tmp_path, "stage=first", "space.lr.count=5")

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        if job.scale.axes["width"] == 32:
            write_json(folder.outcome_path(job.trials[0]), Outcome(state=FAILED, error="boom").to_json())
        return train(folder, job)

    launcher = Scripted(fate, slots=9)
    report = drive(config, launcher)
    middle = [config.folder.read_trial(job.trials[0]).tuned["lr"] for job in launcher.calls[0]]
    assert (len(launcher.calls[0]), set(middle)) == (2, {0.015625})
    assert [len(job.trials) for job in launcher.calls[0]] == [1, 1]
    assert sorted(by_width(config.folder)[32]) == [FAILED, "open"]
    assert by_width(config.folder)[16] == {DONE}
    assert len(report.waiting_for_pilot) == 1
    assert "width=32" in report.waiting_for_pilot[0]
    launcher.fate = train
    verb(launcher, "retry", str(config.folder.path))
    drive(config, launcher)
    assert by_width(config.folder) == {16: {DONE}, 32: {DONE}}


def test_a_cancelled_pilot_trial_is_followed_by_another_one(tmp_path: Path) -> None:
    config = tiny(tmp_path, "stage=first", *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if len(launcher.submitted) == 1:
            write_request(folder, Request(verb=CANCEL, trials=job.trials))
            assert "waiting for the scale's pilot trial" in (folder.path / "driver.json").read_text()
            return None
        return train(folder, job)

    launcher = Scripted(fate, slots=9)
    drive(config, launcher)
    assert [len(job.trials) for job in launcher.submitted] == [1, 1, 1]
    assert sorted(outcomes(config.folder).values()) == [DONE, DONE, FAILED]


def test_without_stages_all_go_at_once(tmp_path: Path) -> None:
    """The control."""
    launcher = Scripted(train, slots=9)
    drive(tiny(tmp_path, "space.lr.count=5"), launcher)
    assert sum(len(job.trials) for job in launcher.calls[0]) == 10


def test_a_trial_that_finishes_before_its_cancelled_job_ends_does_not_cancel_the_others(tmp_path: Path) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    chosen: list[str] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.attempt > 1:
            return train(folder, job)
        if not chosen:
            chosen.append(job.trials[1])
            write_request(folder, Request(verb=CANCEL, trials=chosen))
        return None

    class FinishesFirst(Scripted):
        def cancel(self, jobs: Collection[str]) -> None:
            write_json(self.folder.outcome_path(chosen[0]), Outcome(state=DONE, loss=3.0, seconds=1.0).to_json())
            super().cancel(jobs)

    launcher = FinishesFirst(fate)
    drive(config, launcher)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert [job.attempt for job in launcher.submitted] == [1, 2]


def test_a_trial_is_cancelled_again_after_the_worker_of_an_earlier_driver_was_stopped(tmp_path: Path) -> None:
    """A job that was stopped once and is submitted again can be stopped again."""
    config = tiny(tmp_path, *ONE_SCALE)
    stopped: list[str] = []
    launcher = interrupted(config.folder, config)
    (job,) = launcher.running.values()
    launcher.running.clear()  # the launcher does not know it, but a worker of the first driver holds a trial
    lease = lock(config.folder.lease(job.trials[0]))

    def end_worker(pid: int, number: int) -> None:
        stopped.append(job.trials[0])
        lease.__exit__(None, None, None)

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if not read_requests(folder):
            write_request(folder, Request(verb=CANCEL, trials=[job.trials[2]]))
        return None if job.attempt == 2 else train(folder, job)

    lease.__enter__()
    write_request(config.folder, Request(verb=CANCEL, trials=[job.trials[1]]))
    launcher.fate = fate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hptransfer.driver.jobs.os.kill", end_worker)
        drive(config, launcher)
    states = outcomes(config.folder)
    assert stopped == [job.trials[0]]
    assert [states[trial] for trial in job.trials] == [DONE, FAILED, FAILED]
    assert [attempt.attempt for attempt in launcher.submitted] == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        "garbage",
        "[" * 3000,
        "[]",
        '{"schema": 1, "verb": "explode", "scale": {}, "trials": [], "causes": []}',
        '{"schema": 1, "verb": "cancel", "scale": 3, "trials": [], "causes": []}',
        '{"schema": 1, "verb": "cancel", "scale": {}, "trials": 7, "causes": []}',
        '{"schema": 1, "verb": "cancel", "scale": {}, "trials": [], "causes": [], "more": 1}',
        '{"schema": 9, "verb": "cancel", "scale": {}, "trials": [], "causes": []}',
    ],
)
def test_a_file_that_is_no_request_is_set_aside_with_a_line(tmp_path: Path, content: str) -> None:
    config = tiny(tmp_path, *ONE_SCALE)
    config.folder.create()
    config.folder.driver_lock.touch()
    requests = config.folder.path / "requests"
    requests.mkdir()
    (requests / "0-bad.json").write_text(content)
    (requests / "1-folder.json").mkdir()
    (requests / "2-dangling.json").symlink_to(tmp_path / "nowhere")
    write_request(config.folder, Request(verb=CANCEL))
    reasons: list[str] = []
    found = read_requests(config.folder, lambda path, reason: reasons.append(reason))
    assert ([request.verb for _, request in found], len(reasons)) == ([CANCEL], 3)
    assert all(str(requests) in reason and "\n" not in reason for reason in reasons)
    drive(config, Scripted(train))
    assert sorted(path.name for path in requests.iterdir()) == [
        "0-bad.json.set-aside-1",
        "1-folder.json.set-aside-1",
        "2-dangling.json.set-aside-1",
    ]
