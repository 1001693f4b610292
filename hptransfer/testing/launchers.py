"""Contract kit of the launchers: ends of jobs, cancellation, settings.

Jobs are small trainings of the builtin runner, in a run folder of their own.
"""

from __future__ import annotations

import time
from pathlib import Path

from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import CANCELLED, DONE, Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import JobEnd, Launcher, LauncherConfig
from hptransfer.planning.plan import make_plan
from hptransfer.testing._asserting import assert_refused

JOB_END_TIMEOUT_S = 300.0
"""Time without the end of any job after which a check fails."""
OVERRIDES = (
    "tracker=none",
    "grid.width.values=[16]",
    "grid.depth.values=[1]",
    "grid.tokens.values=[2048]",
    "target.width=16",
    "~target.depth",
    "~target.tokens",
    "run.validation_windows=16",
)


def prepared_jobs(path: Path, count: int) -> tuple[RunFolder, list[Job]]:
    """Return a run folder with three one-trial jobs at most."""
    values = ",".join(str(2.0 ** -(4 + number)) for number in range(3))
    plan = make_plan(compose("quickstart", [*OVERRIDES, f"space.lr.values=[{values}]", f"runs={path}"]))
    folder, jobs = plan.config.folder, []
    folder.create()
    folder.driver_lock.touch()
    (scale,) = plan.scales
    for number, value in enumerate(plan.grids["lr"][:count]):
        trial = plan.trial(scale, {"lr": value}, 0)
        folder.write_trial(trial)
        job = Job(id=f"job{number}", trials=[trial.id], scale=scale, params=trial.params, flops=1.0)
        folder.write_job(job)
        jobs.append(job)
    return folder, jobs


def ended_jobs(launcher: Launcher, count: int) -> list[JobEnd]:
    """Wait for jobs to end."""
    ends: list[JobEnd] = []
    since = time.monotonic()
    while len(ends) < count:
        new_ends = launcher.wait(1.0)
        since = time.monotonic() if new_ends else since
        ends += new_ends
        waited = time.monotonic() - since
        assert waited < JOB_END_TIMEOUT_S, f"{len(ends)} of {count} jobs ended, and none in the last {waited:.0f} s"
    return ends


def check_jobs_end(config: LauncherConfig, path: Path, gpus: int = 0) -> None:
    """Check that each submitted job ends once, with its outcome.

    Args:
        path: a folder of its own.
    """
    folder, jobs = prepared_jobs(path, 3)
    launcher = config.open(folder.path, gpus)
    try:
        assert launcher.slots >= 1, f"{config.name}: slots must be at least 1, got {launcher.slots}"
        waiting = list(jobs)
        ends: list[JobEnd] = []
        while waiting:
            batch, waiting = waiting[: launcher.slots], waiting[launcher.slots :]
            launcher.submit(batch)
            ends += ended_jobs(launcher, len(batch))
        assert sorted(end.job for end in ends) == [job.id for job in jobs], f"{config.name}: each job must end once"
        assert {end.cause for end in ends} == {None}, f"{config.name}: jobs must end by themselves, got {ends}"
        assert launcher.adopt(jobs) == set(), f"{config.name}: an ended job must not be adopted"
    finally:
        launcher.close()
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None, f"{config.name}: trial {trial.id} must have an outcome"
        assert outcome.state == DONE, f"{config.name}: trial {trial.id} must be done, got {outcome.state}"


def check_cancelled_jobs(config: LauncherConfig, path: Path, gpus: int = 0) -> None:
    """Check that a cancelled job is reported as such, or dropped.

    A launcher without processes drops waiting jobs. A job may finish before it is cancelled.
    """
    folder, jobs = prepared_jobs(path, 1)
    launcher = config.open(folder.path, gpus)
    try:
        launcher.submit(jobs)
        launcher.cancel([jobs[0].id])
        ends = launcher.wait(0.0)
        until = time.monotonic() + JOB_END_TIMEOUT_S
        while not ends and launcher.adopt(jobs) and time.monotonic() < until:
            ends = launcher.wait(1.0)
        assert ends or not launcher.adopt(jobs), f"{config.name}: a cancelled job must end, it still runs or waits"
        causes = {end.cause for end in ends}
        assert causes <= {None, CANCELLED}, f"{config.name}: a cancelled job must be reported so, got {ends}"
    finally:
        launcher.close()


def check_config(config: LauncherConfig) -> None:
    """Check slots and threads, and that a negative stack is refused."""
    config.check("launcher")
    assert config.num_slots(0) >= 1, f"{config.name}: num_slots must be at least 1 without GPUs"
    assert config.num_threads() >= 1, f"{config.name}: num_threads must be at least 1"
    stack, config.stack = config.stack, -1
    try:
        assert_refused(lambda: config.check("launcher"), r"launcher\.stack must be at least 0", ConfigError)
    finally:
        config.stack = stack
