"""What a trial printed: from the logs of the jobs that trained it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hptransfer.core.errors import RunFolderError
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.jobs import read_jobs

TRIAL = re.compile(r"trial ([0-9a-f]{12})\b")


def trial_log(folder: RunFolder, beginning: str) -> Iterator[str]:
    """Lines about one trial, and its traceback if it failed.

    Args:
        beginning: of the trial's id.

    Raises:
        RunFolderError: no trial, or more than one, begins like that.
    """
    ids = sorted(path.parent.name for path in folder.path.glob("trials/*/trial.json"))
    found = [trial_id for trial_id in ids if trial_id.startswith(beginning)]
    if not found:
        raise RunFolderError(
            f"{folder.path} has no trial whose id begins with {beginning!r}; one of its {len(ids)} trials is "
            f"{ids[0] if ids else 'none'}, and trials/ has a folder for each"
        )
    if len(found) > 1:
        raise RunFolderError(
            f"{folder.path}: {beginning!r} begins {len(found)} trials, such as {found[0]}; give more of it"
        )
    return _lines(folder, found[0])


def _lines(folder: RunFolder, trial_id: str) -> Iterator[str]:
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


def _printed(path: Path) -> list[str]:
    """Lines of what a script may have printed any bytes to."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _concerns(line: str, trial_id: str) -> bool:
    """Lines of other trials of the same stack begin with their ids."""
    found = TRIAL.match(line)
    return found is None or found[1] == trial_id
