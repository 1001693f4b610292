"""Status gives the reasons of failed and waiting trials, briefly and fast."""

import contextlib
import sys
import time
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.retry import RetryConfig
from hptransfer.core.io import write_json
from hptransfer.core.locks import lock
from hptransfer.core.records import CANCELLED, CODE_ERROR, DONE, FAILED, OUT_OF_MEMORY, Job, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import PILOT_FAILED
from hptransfer.driver.jobs import JobManager
from hptransfer.driver.progress import TRIAL_WAITING, count_progress
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.launchers import JobEnd
from hptransfer.monitor.status import read_status
from hptransfer.monitor.tables import headline
from tests.support.helpers import ONE_SCALE, command, environment, start, sweep_arguments, terminal, tiny
from tests.support.scripted import Scripted, drive, playing, train
from tests.support.waiting import Process


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["status", *arguments])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_failure_is_shown_with_its_cause_node_and_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, "retry.out_of_memory.attempts=1", *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        (folder.jobs / f"{job.id}.log").write_text("trial other step 1\nslurmstepd: error: Detected 1 oom-kill event\n")
        return JobEnd(job.id, OUT_OF_MEMORY, "the limit was 4 GB", "n2")

    drive(config, Scripted(fate))
    out = said(capsys, str(config.folder.path))
    assert "failed: 3 trials: out of memory; such as" in out
    assert "out of memory on n2: the limit was 4 GB; log: slurmstepd: error: Detected 1 oom-kill event" in out
    assert said(capsys, str(config.folder.path), "--all").count("out of memory on n2") == 3


PRINTED = "\x1b[2J\x1b]0;owned\x07\x1b[31mloss\x1b[0m \u202eexe.txt\x9b5A\x00"
SHOWN = r"\x1b[2J\x1b]0;owned\x07loss \u202eexe.txt\x9b5A\x00"


def test_control_characters_of_a_script_do_not_reach_the_terminal(tmp_path: Path) -> None:
    def fate(folder: RunFolder, job: Job) -> JobEnd:
        (folder.jobs / f"{job.id}.log").write_text(f"{PRINTED}\n")
        for trial_id in job.trials:
            failed = Outcome(state=FAILED, error=f"exit code 1: {PRINTED}", cause=CODE_ERROR, node=PRINTED)
            write_json(folder.outcome_path(trial_id), failed.to_json())
        return JobEnd(job.id)

    arguments = sweep_arguments(tmp_path, "launcher=inline", "tracker=none", *ONE_SCALE)
    with playing(Scripted(fate)):
        swept = command(*arguments, cwd=tmp_path)
    run = str(tmp_path / "quickstart")
    trial = RunFolder(tmp_path / "quickstart").read_trials()[0].id
    said = [swept, command("status", run), command("status", run, "--all"), command("logs", run, trial)]
    for shown in said:
        assert SHOWN in shown.stdout
        assert not [c for c in shown.stdout + shown.stderr if not (c.isprintable() or c == "\n")]


def waiting(tmp_path: Path) -> tuple[RunFolder, Job]:
    """Return a run that waits for its scheduler."""
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = Scripted(lambda folder, job: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripted, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(config, launcher)
    (job,) = launcher.running.values()
    return config.folder, job


def test_what_waits_is_shown_with_the_schedulers_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, job = waiting(tmp_path)
    state = {"state": "PENDING", "reason": "PartitionDown", "node": "", "scheduler": "101_0"}
    write_json(folder.jobs / "states.json", {"jobs": {job.id: state}, "checked": 0})
    with lock(folder.driver_lock):
        out = said(capsys, str(folder.path), "--all")
        assert f"waiting: {job.trials[0]}" in out
        assert out.count("PENDING (PartitionDown), job 101_0") == 3
        running = {**state, "state": "RUNNING", "reason": "None", "node": "n1"}
        write_json(folder.jobs / "states.json", {"jobs": {job.id: running}, "checked": 0})
        assert "0/3 trials, 3 running" in said(capsys, str(folder.path))
        write_json(folder.jobs / "states.json", {"jobs": {}, "checked": 0})
        now = time.time() + 60
        write_json(folder.path / "driver.json", {"held": {}, "delayed": {job.id: now}, "blocked": "all jobs wait: X"})
        out = said(capsys, str(folder.path))
        assert "retry after an interruption, in 60 s" in out or "in 59 s" in out
        assert "blocked: all jobs wait: X" in out
    (folder.path / "driver.log").write_text("hptransfer: stopped: sbatch refused a job\n")
    out = said(capsys, str(folder.path))
    assert "no driver runs" in out
    assert "the last one ended with: hptransfer: stopped: sbatch refused a job" in out


def test_a_job_that_trains_is_known_by_its_lease_before_the_scheduler_is_asked_again(tmp_path: Path) -> None:
    folder, job = waiting(tmp_path)
    book = TrialIndex(folder, ("lr",))
    for trial in folder.each_trial():
        book.add(trial)
    jobs = JobManager(folder, Scripted(running={job.id: job}), book, RetryConfig(), 5, lambda *_: None)
    jobs.restore()
    pending, running = {job.id: {"state": "PENDING"}}, {job.id: {"state": "RUNNING"}}
    assert jobs.waiting(pending) == jobs.waiting({"other": {"state": "RUNNING"}}) == {job.id}
    assert jobs.waiting(running) == jobs.waiting({}) == set()
    with lock(folder.lease(job.trials[0])):
        assert jobs.waiting(pending) == set()


def test_what_is_held_back_is_said_after_the_driver_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, "stage=first", *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial_id in job.trials:
            failed = Outcome(state=FAILED, error="bad", cause=CODE_ERROR, node="n3")
            write_json(folder.outcome_path(trial_id), failed.to_json())
        return JobEnd(job.id)

    drive(config, Scripted(fate))
    out = said(capsys, str(config.folder.path))
    assert "the scale's pilot trial failed; its other trials wait (stage=first)" in out
    assert "resumes it" not in out
    assert "bad on n3" in out


def test_thousands_of_failures_are_a_line_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(tmp_path, "seeds=3")

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial_id in job.trials:
            seed = folder.read_trial(trial_id).seed
            failed = Outcome(state=FAILED, error="bad" if seed else "worse", cause=CODE_ERROR)
            write_json(folder.outcome_path(trial_id), failed.to_json())
        return JobEnd(job.id)

    drive(config, Scripted(fate))
    lines = said(capsys, str(config.folder.path)).count("failed:")
    assert lines == 2
    assert said(capsys, str(config.folder.path), "--all").count("failed:") == 18


def test_the_folders_are_believed_and_not_what_the_driver_wrote_of_them(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    drive(config, Scripted(train))
    assert read_status(config.folder).progress.count(DONE) == 6
    trials = config.folder.read_trials()
    config.folder.outcome_path(trials[0].id).unlink()
    failed = Outcome(state=FAILED, error="by hand", cause=CODE_ERROR)
    write_json(config.folder.outcome_path(trials[1].id), failed.to_json())
    with (config.folder.path / "finished.jsonl").open("a") as file:
        file.write('{"id": "torn')
    status = read_status(config.folder)
    assert (status.progress.count(DONE), status.progress.count(FAILED)) == (4, 1)


def test_reading_finished_trials_opens_none_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(tmp_path)
    drive(config, Scripted(train))
    monkeypatch.setattr(RunFolder, "read_trial", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(RunFolder, "read_outcome", lambda *_: pytest.fail("read"))
    assert read_status(config.folder).progress.count(DONE) == 6


def test_watching_without_a_terminal_prints_lines_and_ends_with_the_driver(tmp_path: Path) -> None:
    folder, _ = waiting(tmp_path)
    with contextlib.ExitStack() as driver:
        driver.enter_context(lock(folder.driver_lock))
        with start("status", str(folder.path), "--watch") as watching:
            assert "0/3 trials" in watching.stdout.readline()
            assert watching.poll() is None
            trial = folder.read_trials()[0]
            write_json(folder.outcome_path(trial.id), Outcome(state=DONE, loss=3.0, loss_se=0.1).to_json())
            assert "1/3 trials" in watching.stdout.readline()
            driver.close()
            output, _ = watching.communicate()
    assert watching.returncode == 0
    assert "no driver runs" in output


def test_watching_on_a_terminal_is_a_page_in_place(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    drive(config, Scripted(train))
    with terminal() as (screen, programs):
        watching = Process(
            [sys.executable, "-m", "hptransfer.cli.main", "status", str(config.folder.path), "--watch"],
            env=environment() | {"TERM": "xterm", "COLUMNS": "120"},
            stdin=programs,
            stdout=programs,
            stderr=programs,
        )
        with watching:
            assert watching.wait() == 0
        shown = screen.read(65536).decode()
    assert "6/6 trials" in shown
    assert "best loss" in shown


def test_scales_that_print_alike_have_rows_and_reasons_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.path / "sweep.yaml").write_text("")
    scales = [Scale({"width": width}) for width in (1, 1.00011, 1.00012)]
    for index, scale in enumerate(scales):
        for seed in range(index + 1):
            trial = Trial(id=f"{index}{seed}", scale=scale, tuned={"lr": 0.1}, seed=seed, run={}, flops=1.0, params=1)
            folder.write_trial(trial)
    write_json(folder.path / "driver.json", {"held": {scales[1].key: PILOT_FAILED}, "delayed": {}, "blocked": None})
    status = read_status(folder)
    assert [(row.scale, row.states) for row in status.progress.scales] == [
        (scale, {TRIAL_WAITING: index + 1}) for index, scale in enumerate(scales)
    ]
    assert [trouble.reason == PILOT_FAILED for trouble in status.troubles] == [False, True, True, False, False, False]
    out = said(capsys, str(folder.path))
    assert " 1 - - 1 -" in out
    assert "1.00011 - - 2 -" in out
    assert "1.00012 - - 3 -" in out
    write_json(folder.path / "driver.json", {"held": {scales[2].key: PILOT_FAILED}, "delayed": {}, "blocked": None})
    reasons = [trouble.reason == PILOT_FAILED for trouble in read_status(folder).troubles]
    assert reasons == [False, False, False, True, True, True]


def test_what_an_older_version_wrote_about_waiting_scales_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    scale = Scale({"width": 1.00011})
    folder.write_trial(Trial(id="0", scale=scale, tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1))
    old = "its first trial failed, the others are held back (stage=first)"
    write_json(folder.path / "driver.json", {"held": {"width=1": old}, "delayed": {}, "blocked": None})
    assert [trouble.reason for trouble in read_status(folder).troubles] == [PILOT_FAILED]


def test_a_reason_is_stated_once_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(tmp_path, *ONE_SCALE)

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial_id in job.trials:
            failed = Outcome(state=FAILED, error="exit code 1: bad data", cause=CODE_ERROR)
            write_json(folder.outcome_path(trial_id), failed.to_json())
            log = folder.jobs / f"{job.id}.log"
            log.write_text(f"trial {trial_id} failed exit code 1: bad data\n")
        return JobEnd(job.id)

    drive(config, Scripted(fate))
    told = said(capsys, str(config.folder.path))
    assert (told.count("failed: "), told.count("bad data")) == (1, 1)
    alone = said(capsys, str(config.folder.path), "--all")
    assert alone.count("bad data") == alone.count("failed: ")


def test_failures_that_differ_in_numbers_are_said_once(tmp_path: Path) -> None:
    """A fault of all trials names each trial's own folder, width or rate."""

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        for trial in map(folder.read_trial, job.trials):
            code = 1 if trial.scale.axes["width"] == 16 else 2
            error = f"exit code {code}: no file /data/{trial.tuned['lr']}/{trial.id}/x.json"
            write_json(folder.outcome_path(trial.id), Outcome(state=FAILED, error=error, cause=CODE_ERROR).to_json())
        return JobEnd(job.id)

    arguments = sweep_arguments(tmp_path, "launcher=inline", "tracker=none")
    with playing(Scripted(fate)):
        swept = command(*arguments, cwd=tmp_path)
    assert swept.returncode == 3
    for printed in (swept.stdout, command("status", str(tmp_path / "quickstart")).stdout):
        lines = [line for line in printed.splitlines() if line.startswith("failed: ")]
        assert len(lines) == 2
        assert all(line.startswith("failed: 3 trials: ") and "; such as " in line for line in lines)
    assert printed.count("no file /data/") == 2


def test_cancelled_trials_have_not_failed(tmp_path: Path) -> None:
    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.scale.axes["width"] == 16:
            return train(folder, job)
        for trial_id in job.trials:
            cancelled = Outcome(state=FAILED, error="cancelled", cause=CANCELLED)
            write_json(folder.outcome_path(trial_id), cancelled.to_json())
        return JobEnd(job.id)

    with playing(Scripted(fate)):
        swept = command(*sweep_arguments(tmp_path, "launcher=inline", "tracker=none"), cwd=tmp_path)
    run = str(tmp_path / "quickstart")
    shown = command("status", run)
    assert "3 cancelled" in shown.stdout
    assert "cancelled: 3 trials, such as " in shown.stdout
    assert "3 trials were cancelled; `hptransfer retry RUN --cause cancelled` resets them" in swept.stdout
    assert "failed" not in swept.stdout + shown.stdout
    records = (tmp_path / "quickstart" / "records.csv").read_text()
    assert records.count(",cancelled,") == 3


def trial(number: int, lr: float = 0.1, flops: float = 1.0) -> Trial:
    return Trial(
        id=f"t{number}", scale=Scale({"width": 1}), tuned={"lr": lr}, seed=number, run={}, flops=flops, params=1
    )


def test_the_time_left_falls_between_two_trials_that_end() -> None:
    done = Outcome(state=DONE, loss=1.0, seconds=60.0)
    rows = [(trial(0), done), (trial(1), None), (trial(2), None)]
    assert count_progress(rows, ["t1"], 1).seconds_left == 120.0
    assert count_progress(rows, ["t1"], 1, since_s=50.0).seconds_left == 70.0
    assert count_progress(rows, [], 1, since_s=50.0).seconds_left == 120.0
    late = count_progress(rows, ["t1"], 1, since_s=500.0)
    assert headline(late).endswith("longer than the estimate")


def test_a_stack_of_trials_is_one_of_the_jobs_side_by_side(tmp_path: Path) -> None:
    """The seconds of a trial are its share of the stack's, so the stack takes the sum of them."""
    config = tiny(tmp_path, *ONE_SCALE)
    launcher = Scripted(lambda folder, job: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripted, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(config, launcher)
    folder = config.folder
    first, *others = [trial.id for trial in folder.read_trials()]
    write_json(folder.outcome_path(first), Outcome(state=DONE, loss=1.0, seconds=60.0).to_json())
    with contextlib.ExitStack() as held:
        for trial_id in others:
            held.enter_context(lock(folder.lease(trial_id)))
        left = read_status(folder).progress.seconds_left
    assert left == pytest.approx(120.0, abs=5.0)


def test_trials_lists_every_trial_with_scale_values_state_and_loss(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    drive(config, Scripted(lambda folder, job: train(folder, job) if job.scale.axes["width"] == 16 else JobEnd(job.id)))
    done = next(t for t in config.folder.read_trials() if t.scale.axes["width"] == 16)
    write_json(config.folder.outcome_path(done.id), Outcome(state=DONE, loss=2.5).to_json())
    header, *lines = (line.split() for line in command("trials", str(config.folder.path)).stdout.splitlines())
    assert header == ["trial", "width", "depth", "tokens", "lr", "seed", "purpose", "state", "loss"]
    listed = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert set(listed) == {trial.id for trial in config.folder.read_trials()}
    assert [line[1] for line in lines] == ["16"] * 3 + ["32"] * 3
    assert (listed[done.id]["state"], listed[done.id]["loss"]) == ("done", "2.5")
