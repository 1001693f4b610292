"""What a job executes: take the trials' leases, train them, write their outcomes.

    python -m hptransfer.sweep.worker RUN_FOLDER

reads job ids from standard input and answers each with a line, "<id>" or "<id> <why it must stop>".
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hptransfer.core.files import LockedError, RunFolder, guard, lock, read_json, write_json, write_text
from hptransfer.core.records import CODE_ERROR, FAILED, Outcome, Trial
from hptransfer.sweep.runners._base import RUNNERS

# A look at a lease (`hptransfer status`) holds it for a moment; who trains holds it for longer.
LEASE_PATIENCE_S = 1.0
MACHINE_STOPS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def run_job(folder: RunFolder, job: str) -> str | None:
    """Trains what is still to be trained of a job.

    A trial that somebody else holds, or that has an outcome, is left alone: two workers never train
    one trial, and none is trained twice.

    Returns:
        Why the machine would not let it go on, such as a full disk; None if all is well.
    """
    try:
        with ExitStack() as leases:
            mine = []
            for trial_id in folder.read_job(job).trials:
                try:
                    leases.enter_context(lock(folder.lease(trial_id), wait_s=LEASE_PATIENCE_S))
                except LockedError:
                    continue
                if not folder.outcome_path(trial_id).exists():
                    mine.append(folder.read_trial(trial_id))
            _train(folder, job, mine)
    except OSError as error:
        if error.errno not in MACHINE_STOPS:
            raise
        return f"{error.strerror} ({folder.path})"
    return None


def _train(folder: RunFolder, job: str, trials: Sequence[Trial]) -> None:
    stacks = [list(trials)] if trials else []
    write_json(folder.jobs / f"{job}.stacks.json", {"stacks": [[t.id for t in stack] for stack in stacks]})
    while stacks:
        stack = stacks.pop(0)
        started = time.monotonic()
        try:
            RUNNERS.get(stack[0].run["runner"]).execute(stack, folder, lambda t, o: _finish(folder, t, o))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MACHINE_STOPS:
                raise
            traceback.print_exc()
            unfinished = [trial for trial in stack if not folder.outcome_path(trial.id).exists()]
            if len(stack) > 1:  # one of them is at fault: each alone shows which
                stacks = [[trial] for trial in unfinished] + stacks
            else:
                for trial in unfinished:
                    _fail(folder, trial, error, time.monotonic() - started)


def _finish(folder: RunFolder, trial: Trial, outcome: Outcome) -> None:
    attempts = count_attempt(folder, trial.id, add=0) + 1
    write_json(folder.outcome_path(trial.id), replace(outcome, attempts=attempts).to_json())


def _fail(folder: RunFolder, trial: Trial, error: Exception, seconds: float) -> None:
    write_text(folder.trial(trial.id) / "traceback.txt", "".join(traceback.format_exception(error)))
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    _finish(folder, trial, Outcome(state=FAILED, error=reason, cause=CODE_ERROR, seconds=seconds))


def count_attempt(folder: RunFolder, trial_id: str, *, add: int) -> int:
    """Times that a worker died while training this trial, after adding to it."""
    path = folder.trial(trial_id) / "deaths.json"
    deaths = int(read_json(path)["deaths"]) if path.exists() else 0
    if add:
        write_json(path, {"deaths": deaths + add})
    return deaths + add


def main() -> None:
    """Serves jobs until standard input ends. What trials print goes to the job's log."""
    folder = RunFolder(Path(sys.argv[1]))
    guard(folder.path)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = line.strip()
        log = os.open(folder.jobs / f"{job}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        stopped = run_job(folder, job)
        try:
            answers.write(f"{job} {stopped}\n" if stopped else f"{job}\n")
            answers.flush()
        except BrokenPipeError:
            return  # the driver is gone; the outcomes are on disk


if __name__ == "__main__":
    main()
