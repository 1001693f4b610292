"""Client of requests, which the driver or this process handles."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hptransfer.config.sweep import SweepConfig, load_sweep
from hptransfer.core.errors import RunFolderError, StoppedError
from hptransfer.core.locks import locked_by
from hptransfer.core.records import Trial
from hptransfer.core.run_folder import RunFolder, disk_errors
from hptransfer.driver.requests import Request, write_request
from hptransfer.monitor.status import read_trials_with_outcomes

REQUEST_WAIT_S = 20.0
# A scheduler may need this long to end a job.
JOB_END_WAIT_S = 120.0
REQUEST_CHECK_S = 0.1


def matching_trials(folder: RunFolder, request: Request) -> list[Trial]:
    """Return the trials that a request applies to now.

    Raises:
        RunFolderError: no trial's id starts with one of the request's prefixes.
    """
    rows = read_trials_with_outcomes(folder)[0]
    for prefix in request.trials:
        if not any(trial.id.startswith(prefix) for trial, _ in rows):
            raise RunFolderError(
                f"{folder.path} has no trial {prefix!r}; `hptransfer status {folder.path} --all` lists unfinished ones"
            )
    return [trial for trial, outcome in rows if request.selects(trial, outcome)]


def send_request(folder: RunFolder, request: Request) -> tuple[bool, bool]:
    """Send a request to the driver, or handle it here without one.

    Returns:
        True if the request is carried out; True if a driver runs.
    """
    with disk_errors(folder):
        path = write_request(folder, request)
    deadline = time.monotonic() + REQUEST_WAIT_S
    while path.exists() and time.monotonic() < deadline:
        if not locked_by(folder.driver_lock):
            _carry_out_here(folder, load_sweep(folder), path)
        else:
            time.sleep(REQUEST_CHECK_S)
    return not path.exists(), locked_by(folder.driver_lock) is not None


def _carry_out_here(folder: RunFolder, config: SweepConfig, path: Path) -> None:
    """Act as the driver: take its lock and carry out requests.

    Raises:
        StoppedError: a job does not end.
    """
    from hptransfer.driver.driver import driving
    from hptransfer.driver.jobs import JobManager
    from hptransfer.driver.requests import carry_out, read_requests, set_aside_request
    from hptransfer.driver.trial_index import TrialIndex

    def set_aside_one(unusable: Path, reason: str) -> None:
        print(f"note: {set_aside_request(unusable, reason)}", file=sys.stderr)

    with driving(folder), disk_errors(folder):
        index = TrialIndex(folder, tuple(config.space))
        for trial in folder.read_trials():
            index.add(trial)
        launcher = config.launcher.open(folder.path, 0)
        jobs = JobManager(
            folder, launcher, index, config.retry, config.launcher.max_attempts, lambda trial, outcome: None
        )
        deadline = time.monotonic() + JOB_END_WAIT_S
        try:
            jobs.restore()
            for request_path, request in read_requests(folder, set_aside_one):
                while not carry_out(request, index, jobs):
                    if time.monotonic() > deadline:
                        raise StoppedError(
                            f"jobs of {folder.path} have not ended yet; the request stays: run the same command again"
                        )
                    for ended in launcher.wait(REQUEST_CHECK_S):
                        jobs.end(ended)
                    jobs.check_adopted()
                request_path.unlink(missing_ok=True)
        finally:
            launcher.close()
    path.unlink(missing_ok=True)
