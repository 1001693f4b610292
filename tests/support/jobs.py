"""One job of three trials, of which one diverges, and what of it must not depend on how often it was cut off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hptransfer.core.io import read_json, read_jsonl
from hptransfer.core.records import PREEMPTED, Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.worker import job as worker
from hptransfer.worker.interruption import StopCheck
from tests.support.helpers import ONE_SCALE, environment, tiny
from tests.support.waiting import Process

JOB = "job"
TRIALS = ("space.lr.values=[0.004,0.015,1e5]", *ONE_SCALE)
ONE_STACK = 16
"""Jobs train as one stack, so that their numbers can be compared to the bit."""
SLOW = ("grid.tokens.values=[262144]",)
"""Two seconds of training or more, so that it can be hit in the middle."""


class After(StopCheck):
    """Asks to stop at the end of so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def __call__(self) -> str | None:
        self.left -= 1
        return PREEMPTED if self.left < 0 else super().__call__()


def write_job(runs: Path, *overrides: str) -> RunFolder:
    """A run folder with a job of all its trials, as a driver leaves it to a worker."""
    plan = make_plan(tiny(runs, *TRIALS, *overrides))
    folder = plan.config.folder
    folder.create()
    folder.driver_lock.touch()
    trials = [plan.trial(scale, {"lr": value}, 0) for scale in plan.scales for value in plan.grids["lr"]]
    for trial in trials:
        folder.write_trial(trial)
    job = Job(id=JOB, trials=[t.id for t in trials], scale=trials[0].scale, params=trials[0].params, flops=1.0)
    folder.write_job(job)
    return folder


def run_job(folder: RunFolder, job: str, **more: Any) -> str | None:
    """In this process."""
    return worker.run_job(folder, job, **{"stack": ONE_STACK, **more})


def start_worker(folder: RunFolder, *, attempt: int = 1, **more: str) -> Process:
    """The job's worker, as a scheduler starts it; what it prints goes to the job's log."""
    with (folder.jobs / f"{JOB}.log").open("ab") as log:
        return Process(
            [sys.executable, "-m", "hptransfer.worker", str(folder.path), JOB, str(attempt)],
            env={**environment(), "OMP_NUM_THREADS": "1", "HPTRANSFER_STACK": str(ONE_STACK), **more},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def log_of(folder: RunFolder) -> str:
    return (folder.jobs / f"{JOB}.log").read_text()


def points(folder: RunFolder) -> int:
    """Points of the longest curve."""
    return max((len(read_jsonl(path)) for path in folder.path.glob("trials/*/metrics.jsonl")), default=0)


def checkpoints(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.jobs.glob("*.checkpoint*"))


def results(folder: RunFolder) -> dict[str, Any]:
    """Curves and outcomes by trial, without clock times and counts of attempts."""
    found = {}
    for trial in folder.read_trials():
        curve = read_jsonl(folder.curve_path(trial.id))
        outcome = read_json(folder.outcome_path(trial.id))
        for point in curve:
            del point["time"]
        del outcome["seconds"], outcome["attempts"], outcome["node"]
        found[trial.id] = (curve, outcome)
    return found
