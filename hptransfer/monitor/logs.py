"""Output of a trial, from the logs of its jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_text
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.jobs import read_jobs

LAST_LINES = 12
TRIAL = re.compile(r"trial ([0-9a-f]{12})\b")


def trial_log(folder: RunFolder, prefix: str) -> Iterator[str]:
    """Return the output of one trial, and its traceback if it failed.

    Args:
        prefix: start of the trial's id.

    Raises:
        RunFolderError: no id, or more than one, starts with it.
    """
    ids = sorted(path.parent.name for path in folder.path.glob("trials/*/trial.json"))
    matching = [trial_id for trial_id in ids if trial_id.startswith(prefix)]
    if not matching:
        raise RunFolderError(
            f"{folder.path} has no trial whose id begins with {prefix!r}; one of its {len(ids)} trials is "
            f"{ids[0] if ids else 'none'}, and trials/ has a folder for each"
        )
    if len(matching) > 1:
        raise RunFolderError(
            f"{folder.path}: the ids of {len(matching)} trials begin with {prefix!r}, such as {matching[0]}; give more "
            "digits"
        )
    return _log_lines(folder, matching[0])


def _log_lines(folder: RunFolder, trial_id: str) -> Iterator[str]:
    trial, outcome = folder.read_trial(trial_id), folder.read_outcome(trial_id)
    yield f"{trial.id} {trial.name}: {outcome.state if outcome else 'not finished'}"
    for job in sorted(read_jobs(folder), key=lambda job: job.submitted):
        log = folder.jobs / f"{job.id}.log"
        if trial_id in job.trials and log.exists():
            yield f"-- {log}"
            yield from (line for line in _printed(log) if _concerns(line, trial_id))
    traceback = folder.trial(trial_id) / "traceback.txt"
    if traceback.exists():
        yield f"-- {traceback}"
        yield from _printed(traceback)


def last_lines(folder: RunFolder, trial_id: str) -> list[str]:
    """Return the last lines that a trial's last attempt printed."""
    title, *lines = _log_lines(folder, trial_id)
    beginning = f"trial {title.rpartition(': ')[0]}"  # of every attempt
    beginnings = [index for index, line in enumerate(lines) if line == beginning or line.startswith("-- ")]
    printed = [line for line in lines[max(beginnings, default=-1) + 1 :] if line.strip() and not TRIAL.match(line)]
    return printed[-LAST_LINES:]


def _printed(path: Path) -> list[str]:
    """Return the lines of a file, which may not be valid UTF-8."""
    return read_text(path, errors="replace").splitlines()


def _concerns(line: str, trial_id: str) -> bool:
    """Return False for lines that start with another trial's id."""
    match = TRIAL.match(line)
    return match is None or match[1] == trial_id
