"""The driver: every trial once, in place, and the views agree with the folders."""

import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import FitError, RunFolderError, StoppedError
from hptransfer.core.io import read_json, read_jsonl, write_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver import driving
from hptransfer.driver.jobs import read_jobs
from hptransfer.driver.summary import DriverSummary
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.launchers import JobEnd
from hptransfer.monitor.logs import trial_log
from hptransfer.planning.plan import make_plan, num_devices
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.session import session
from hptransfer.worker.runners.builtin import BuiltinRunner
from tests.support.helpers import ONE_SCALE, outcomes, tiny
from tests.support.scripted import Scripted, drive, train
from tests.support.slow import slow_except
from tests.support.views import assert_optuna_agrees, studies


def run(config: SweepConfig) -> DriverSummary:
    plan = make_plan(config)
    with session(plan, Console(quiet=True)) as open_session:
        return open_session.train(TrialSet.sweep(plan))


def play(config: SweepConfig) -> DriverSummary:
    """The sweep without training: outcomes are made up, one job at a time."""
    return drive(config, Scripted(slots=1))


def test_a_sweep_trains_every_trial_and_optuna_agrees(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    report = run(config)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert report.progress.count(DONE) == 6
    assert_optuna_agrees(config.folder)
    for trial in config.folder.read_trials():
        curve = read_jsonl(config.folder.curve_path(trial.id))
        assert curve[-1]["step"] == 16
        assert curve[-1]["loss"] < curve[0]["loss"]
        outcome = config.folder.read_outcome(trial.id)
        assert outcome is not None
        readout = next(group for group in outcome.groups if group["role"] == "output")
        assert readout["lr"] == trial.tuned["lr"]
        assert readout["parameters"]["readout.weight"]["output_multiplier"] == 64 / trial.scale.axes["width"]


def test_the_same_command_again_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(tmp_path)
    run(config)
    before = {path: path.stat().st_mtime_ns for path in config.folder.path.glob("trials/*/outcome.json")}
    monkeypatch.setattr(BuiltinRunner, "execute", lambda *_: pytest.fail("trained again"))
    run(config)
    assert {path: path.stat().st_mtime_ns for path in config.folder.path.glob("trials/*/outcome.json")} == before


def test_a_run_is_extended_in_place(tmp_path: Path) -> None:
    play(tiny(tmp_path))
    first = outcomes(tiny(tmp_path).folder)
    play(tiny(tmp_path, "seeds=2"))
    more_seeds = outcomes(tiny(tmp_path).folder)
    assert (len(more_seeds), set(first) <= set(more_seeds)) == (12, True)
    config = tiny(tmp_path, "seeds=2", "grid.width.values=[16,32,48]", "target.width=128")
    play(config)
    assert len(outcomes(config.folder)) == 18
    assert read_json(config.folder.target)["target"]["width"] == 128
    assert_optuna_agrees(config.folder)


def test_another_identity_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    play(config)
    before = {
        path: path.read_bytes()
        for path in config.folder.path.rglob("*")
        if path.is_file() and path.name != "driver.lock"
    }
    with pytest.raises(RunFolderError, match=r"run.parameterization is mup there, sp here; choose another name=NAME"):
        play(tiny(tmp_path, "run.parameterization=sp"))
    assert {path: path.read_bytes() for path in before} == before


def test_a_strange_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        run(tiny(tmp_path))
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == ["thesis.tex"]


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    config.folder.create()
    with driving(config.folder), pytest.raises(StoppedError, match=r"is being driven by process \d+ on") as caught:
        run(config)
    assert caught.value.exit_code == 5


def test_a_best_value_at_an_edge_gets_values_beyond_it(tmp_path: Path) -> None:
    config = tiny(tmp_path, "space.lr.low=1e-6", "space.lr.high=4e-6", "space.lr.extend=2", *ONE_SCALE)
    report = run(config)
    tried = sorted(trial.tuned["lr"] for trial in config.folder.read_trials())
    assert tried == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6, 16e-6])
    assert len(report.unbracketed) == 1
    assert "best lr 1.6e-5 of 1e-6 to 1.6e-5" in report.unbracketed[0]


def test_a_diverged_trial_is_an_outcome(tmp_path: Path) -> None:
    config = tiny(tmp_path, "space.lr.values=[0.004,0.015,1e5]", *ONE_SCALE)
    run(config)
    assert sorted(outcomes(config.folder).values()) == [DIVERGED, DONE, DONE]
    bad = next(t for t in config.folder.read_trials() if t.tuned["lr"] == 1e5)
    outcome = config.folder.read_outcome(bad.id)
    assert outcome is not None
    assert outcome.loss is None
    told = {t.user_attrs["trial"]: t.value for study in studies(config.folder).values() for t in study.trials}
    assert told[bad.id] == outcome.initial_loss


def test_a_trial_that_raises_fails_alone_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = BuiltinRunner.execute

    def sabotaged(self: BuiltinRunner, trials: Any, *rest: Any) -> None:
        if any(trial.tuned["lr"] > 0.05 for trial in trials):
            raise RuntimeError("out of luck")
        train(self, trials, *rest)

    monkeypatch.setattr(BuiltinRunner, "execute", sabotaged)
    config = tiny(tmp_path)
    report = run(config)
    assert sorted(outcomes(config.folder).values()) == [DONE] * 4 + [FAILED] * 2
    assert {outcome.error for _, outcome in report.progress.failures} == {"RuntimeError: out of luck"}
    failed = report.progress.failures[0][0]
    write_json(config.folder.jobs / "states.json", {"jobs": {}})  # beside the jobs, where there is a scheduler
    (job,) = (job for job in read_jobs(config.folder) if failed.id in job.trials)
    (config.folder.jobs / f"{job.id}.log").write_bytes(b"80 \xb0C\n")  # a script prints what it likes
    lines = list(trial_log(config.folder, failed.id[:8]))
    assert "80 \ufffdC" in lines
    assert lines[0].endswith("failed")
    assert "RuntimeError: out of luck" in lines[-1]


@pytest.mark.parametrize(
    ("budget", "trained"), [("budget.trials=4", 4), ("budget.flops=1.3e9", 4), ("budget.device_hours=1e-9", 3)]
)
def test_a_budget_stops_asking_and_says_what_is_missing(tmp_path: Path, budget: str, trained: int) -> None:
    config = tiny(tmp_path, budget)
    report = play(config)
    states = list(outcomes(config.folder).values())
    assert states.count(DONE) == trained
    assert sum(int(line.rpartition(": ")[2].split()[0]) for line in report.missing) == 6 - trained
    play(tiny(tmp_path))
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_budget_of_hours_keeps_what_is_in_flight_within_it(tmp_path: Path) -> None:
    """A scheduler takes a thousand jobs at once, before any of them has cost anything."""
    config = tiny(tmp_path, "seeds=20", "budget.device_hours=0.005", *ONE_SCALE)  # 18 s; a trial has 1 s
    launcher = Scripted(train, slots=1000)
    report = drive(config, launcher)
    assert 18 <= list(outcomes(config.folder).values()).count(DONE) <= 21
    assert len(launcher.calls[0]) == 1
    assert report.missing
    launcher = Scripted(train, slots=1000)
    drive(tiny(tmp_path, "seeds=20", *ONE_SCALE), launcher)
    assert len(launcher.calls[0]) > 1
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_trial_on_many_devices_costs_the_time_of_them_all(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path, "launcher=slurm", "launcher.nodes=2", "launcher.gpus='width // 8'", inline=False))
    assert [num_devices(plan, scale) for scale in (*plan.scales, plan.target)] == [4, 8, 16]
    plan.config.folder.create()
    index = TrialIndex(plan.config.folder, plan.tuned)
    trial = plan.trial(plan.scales[1], {"lr": 0.01}, 0)
    index.add(trial)
    index.at(trial.scale).devices = 8
    index.spend(trial.id, 3.0)
    assert index.device_s == 24.0


@pytest.mark.parametrize("sampler", slow_except(["random", "qmc", "tpe", "gp", "cmaes"], "random", "tpe"))
def test_every_sampler_tries_its_number_of_values_and_resumes(tmp_path: Path, sampler: str) -> None:
    config = tiny(tmp_path, f"sampler={sampler}", "sampler.trials=4", "seeds=2", *ONE_SCALE)
    play(config)
    values = [trial.tuned["lr"] for trial in config.folder.read_trials()]
    assert (len(values), len(set(values))) == (8, 4)
    assert all(2.0**-8 <= value <= 2.0**-4 for value in values)
    play(tiny(tmp_path, f"sampler={sampler}", "sampler.trials=6", "seeds=2", *ONE_SCALE))
    assert len(config.folder.read_trials()) == 12
    assert_optuna_agrees(config.folder)


def test_a_lost_journal_is_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    play(config)
    config.folder.journal.unlink()
    play(config)
    assert_optuna_agrees(config.folder)


@pytest.mark.parametrize("damage", [b'{"op_code": 4, "work', b"\x00\xffgarbage\n", b"not json\n{}\n"])
def test_a_torn_or_damaged_journal_is_made_again(tmp_path: Path, damage: bytes) -> None:
    config = tiny(tmp_path)
    play(config)
    with config.folder.journal.open("ab") as journal:
        journal.write(damage)
    play(tiny(tmp_path, "seeds=2"))
    assert_optuna_agrees(config.folder)


def test_an_unfinished_trial_is_trained_and_its_curve_has_no_doubled_point(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    run(config)
    trial = config.folder.read_trials()[0]
    config.folder.outcome_path(trial.id).unlink()
    run(config)
    steps = [point["step"] for point in read_jsonl(config.folder.curve_path(trial.id))]
    assert steps == sorted(set(steps))
    assert set(outcomes(config.folder).values()) == {DONE}


def test_a_full_disk_stops_the_sweep_and_loses_no_finished_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hptransfer.worker.job as worker

    config = tiny(tmp_path)
    written: list[Path] = []

    def full_after_three(path: Path, values: Any) -> None:
        if path.name == "outcome.json":
            if len(written) == 3:
                raise OSError(28, "No space left on device")
            written.append(path)
        write_json(path, values)

    monkeypatch.setattr(worker, "write_json", full_after_three)
    with pytest.raises(StoppedError, match=r"No space left on device.*make room"):
        run(config)
    assert sum(state == DONE for state in outcomes(config.folder).values()) == 3
    monkeypatch.undo()
    run(config)
    assert set(outcomes(config.folder).values()) == {DONE}
    assert_optuna_agrees(config.folder)


@pytest.mark.parametrize("loss", [0.0, -0.25])
def test_a_loss_that_the_estimator_cannot_fit_ends_the_sweep_at_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr("hptransfer.worker.runners.builtin.BuiltinRunner.job_size", lambda *_, **__: 1)
    config = tiny(tmp_path, "estimator=nested")

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if len(launcher.submitted) < 2 or job is not launcher.submitted[0]:
            return None  # another one trains meanwhile
        write_json(folder.outcome_path(job.trials[0]), Outcome(state=DONE, loss=loss).to_json())
        return JobEnd(job.id)

    launcher = Scripted(fate)
    for _ in range(2):  # the same command again trains nothing either
        with pytest.raises(FitError, match=f"has loss {loss:g}, but estimator=nested compares .*its trials are kept"):
            drive(config, launcher)
        assert len(launcher.submitted) == 2
        assert launcher.cancelled == {launcher.submitted[1].id}
    assert sorted(outcomes(config.folder).values()) == [DONE, *["open"] * 5]


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_again_and_again_is_failed(tmp_path: Path) -> None:
    # Two deaths are allowed; the run's own file says who killed it.
    config = tiny(
        tmp_path,
        "launcher=local",
        "tracker=none",
        "launcher.max_attempts=2",
        "launcher.workers=1",
        *ONE_SCALE,
        inline=False,
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import hptransfer.training.loop as loop, os, signal\n"
        "def train(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.train = train\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
        report = run(config)
    assert set(outcomes(config.folder).values()) == {FAILED}
    errors = {outcome.error for _, outcome in report.progress.failures}
    assert errors == {"its worker died 2 times while training it, last killed by signal 9"}


def test_losses_are_finite_numbers_on_disk(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    run(config)
    for trial in config.folder.read_trials():
        outcome = config.folder.read_outcome(trial.id)
        assert outcome is not None
        assert outcome.loss is not None
        assert outcome.loss_se is not None
        assert math.isfinite(outcome.loss)
        assert 0 < outcome.loss_se < 1
        assert outcome.tokens == 4096
