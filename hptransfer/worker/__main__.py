"""Entry point of a worker: train trials and write their outcomes.

    python -m hptransfer.worker RUN_FOLDER JOB ATTEMPT

runs one job; hptransfer/core/errors.py lists its exit codes.

    python -m hptransfer.worker RUN_FOLDER

reads job ids from standard input and answers each with a line, "<id>" or "<id> <reason why it must stop>".

SIGTERM and SIGINT end the worker at the next step, with a checkpoint. So do SIGUSR2, the scheduler's warning before a
time limit, and the worker's own deadline. After these two the scheduler is asked to requeue the job, if it has
progressed. After SIGTERM it is not: a scheduler sends SIGTERM to cancel a job, or before it requeues the job itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hptransfer.core.attempts import last_progress
from hptransfer.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_STOPPED,
    EXIT_TRIALS_FAILED,
    EXIT_UNFINISHED,
    HptransferError,
    Interrupted,
    Superseded,
    exit_with,
    print_error,
)
from hptransfer.core.io import open_for_writing, read_json, write_json
from hptransfer.core.permissions import restrict_umask
from hptransfer.core.records import (
    CANCELLED,
    FAILED,
    PREEMPTED,
    TIME_LIMIT,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.interruption import StopCheck, process_deadline, requeue_job
from hptransfer.worker.job import CHECKPOINT_S, machine_error, run_job

# SIGTERM alone does not distinguish the two.
CAUSE_TEXTS = {PREEMPTED: f"{PREEMPTED} or {CANCELLED}"}


def main() -> None:
    """Run the job of the arguments, or jobs from standard input."""
    stop = StopCheck(process_deadline(), once=len(sys.argv) > 2)
    stop.listen()
    folder = RunFolder(Path(sys.argv[1]))
    restrict_umask(folder.path)
    checkpoint_s = float(os.environ.get("HPTRANSFER_CHECKPOINT_S", CHECKPOINT_S))
    stack = int(os.environ.get("HPTRANSFER_STACK", "0"))
    if len(sys.argv) > 2:
        exit_with(run_one(folder, sys.argv[2], int(sys.argv[3]), stop, checkpoint_s, stack))
    _serve_jobs(folder, stop, checkpoint_s, stack)


def run_one(folder: RunFolder, job: str, attempt: int, stop: StopCheck, checkpoint_s: float, stack: int = 0) -> int:
    """Run one job and return the exit code.

    The output of its trials goes to the standard output that the scheduler has set up.
    """
    if not folder.job_path(job).exists():
        print_error(f"{folder.path} has no job {job!r}; `hptransfer sweep` makes and submits them")
        return EXIT_BAD_INPUT
    try:
        stopped = run_job(folder, job, attempt=attempt, stop=stop, checkpoint_s=checkpoint_s, stack=stack)
    except Interrupted as interrupted:
        print_error(f"job {job} stops: {CAUSE_TEXTS.get(interrupted.cause, interrupted.cause)}")
        if interrupted.cause == TIME_LIMIT and _has_progressed(folder, job):
            requeue_job()
        return EXIT_UNFINISHED
    except (Superseded, HptransferError) as error:
        print_error(str(error))
        return EXIT_BAD_INPUT
    if stopped:
        print_error(f"job {job} stops: {stopped}")
        return EXIT_STOPPED
    folder.reached_path(job).unlink(missing_ok=True)
    outcomes = [folder.read_outcome(trial_id) for trial_id in folder.read_job(job).trials]
    if any(outcome is None for outcome in outcomes):
        print_error(f"job {job}: another worker holds some of its trials")
        return EXIT_UNFINISHED
    return EXIT_TRIALS_FAILED if any(outcome and outcome.state == FAILED for outcome in outcomes) else EXIT_DONE


def _has_progressed(folder: RunFolder, job: str) -> bool:
    """Test if a trial has advanced since the job's previous time limit.

    The progress is stored for the next test. A script that restarts from its beginning each time would be requeued for
    ever. Such a job is left to the driver, which counts attempts.
    """
    path = folder.reached_path(job)
    earlier = read_json(path, "trials")["trials"] if path.exists() else {}
    unfinished = [trial for trial in folder.read_job(job).trials if not folder.outcome_path(trial).exists()]
    progress = {trial: list(last_progress(folder, trial, job)) for trial in unfinished}
    write_json(path, {"trials": progress})
    return any(_is_advance(progress[trial], earlier.get(trial, (-1, -1))) for trial in unfinished)


def _is_advance(new: Sequence[float], old: Sequence[float]) -> bool:
    """Test if the step or the checkpoint advanced.

    A later step counts if the attempt kept the points before it. Another node's clock may be behind, so any other
    checkpoint is taken for a later one.
    """
    continued = new[2:] == old[2:] or len(old) < len(new)  # the first limit, or a file of version 0.2
    return (new[0] > old[0] and continued) or new[1] not in (0.0, old[1])


def _serve_jobs(folder: RunFolder, stop: StopCheck, checkpoint_s: float, stack: int) -> None:
    """Run the jobs whose ids are read from standard input.

    The output of a job's trials goes to its log.
    """
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = line.strip()
        try:
            _print_to(folder.jobs / f"{job}.log")
            stopped = run_job(folder, job, stop=stop, checkpoint_s=checkpoint_s, stack=stack)
        except OSError as error:
            stopped = machine_error(error, folder)
        except Interrupted as interrupted:
            print_error(f"job {job} stops: {CAUSE_TEXTS.get(interrupted.cause, interrupted.cause)}")
            exit_with(EXIT_UNFINISHED)
        try:
            answers.write(f"{job} {stopped}\n" if stopped else f"{job}\n")
            answers.flush()
        except BrokenPipeError:
            return  # the driver is gone; the outcomes are on disk


def _print_to(log: Path) -> None:
    """Append all further output of this process to a log."""
    with open_for_writing(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    main()
