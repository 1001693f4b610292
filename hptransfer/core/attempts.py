"""Attempts at a trial that ended without a result, and the file that records them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.io import read_json, reading, write_json
from hptransfer.core.records import Outcome
from hptransfer.core.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a trial that ended without a result, or with one that was taken back.

    Attributes:
        time: when it was seen to have ended, in seconds since 1970.
        cause: one of records.CAUSES; None if its driver ended, which is nobody's fault.
        job, number: which attempt of which job it was.
        step: how far the trial's curve had come by then.
        checkpoint: when its last checkpoint was written, in seconds since 1970; 0 without one.
        seconds: time of a device that it took, its share of the job's.
    """

    time: float
    cause: str | None
    job: str = ""
    number: int = 1
    node: str | None = None
    detail: str = ""
    step: int = 0
    checkpoint: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class History:
    """All attempts at one trial, oldest first.

    Attributes:
        since: the first attempt that counts: `hptransfer retry` lets those before it be bygones.
    """

    attempts: Sequence[Attempt] = ()
    since: int = 0

    def plus(self, attempt: Attempt) -> History:
        return History((*self.attempts, attempt), self.since)

    def forgiven(self) -> History:
        return History(self.attempts, len(self.attempts))

    def counted(self, cause: str, *, progress: bool) -> int:
        """Attempts that ended by this cause and count against the trial."""
        count, step, checkpoint = 0, 0, 0.0
        for index, attempt in enumerate(self.attempts):
            farther = attempt.step > step or attempt.checkpoint > checkpoint
            step, checkpoint = max(step, attempt.step), max(checkpoint, attempt.checkpoint)
            if index < self.since:
                continue
            if progress and farther:
                count = 0
            elif attempt.cause == cause:
                count += 1
        return count

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)


def _path(folder: RunFolder, trial_id: str) -> Path:
    return folder.trial(trial_id) / "attempts.json"


def read_history(folder: RunFolder, trial_id: str) -> History:
    """
    Raises:
        RunFolderError: the history's file is damaged.
    """
    path = _path(folder, trial_id)
    if not path.exists():
        return History()
    values = read_json(path, "attempts", "since")
    with reading(path):
        return History(tuple(Attempt(**attempt) for attempt in values["attempts"]), int(values["since"]))


def write_history(folder: RunFolder, trial_id: str, history: History) -> None:
    values: dict[str, Any] = {"since": history.since, "attempts": [asdict(attempt) for attempt in history.attempts]}
    write_json(_path(folder, trial_id), values)


def reset_trial(folder: RunFolder, trial_id: str, outcome: Outcome, *, job: str = "", forgive: bool) -> History:
    """Makes a trial that ended without a loss one that is still to be trained; how it ended closes its history.

    Args:
        forgive: earlier attempts no longer count against it.
    """
    history = read_history(folder, trial_id)
    path = folder.outcome_path(trial_id)
    if outcome.attempts > len(history.attempts):  # the worker wrote it; of those that the driver writes it knows
        step, checkpoint = last_progress(folder, trial_id, job)
        history = history.plus(
            Attempt(
                time=path.stat().st_mtime,
                cause=outcome.cause,
                job=job,
                number=folder.read_job(job).attempt if job else outcome.attempts,
                detail=outcome.error or "",
                step=step,
                checkpoint=checkpoint,
                seconds=outcome.seconds,
            )
        )
    if forgive:
        history = history.forgiven()
    write_history(folder, trial_id, history)
    path.unlink(missing_ok=True)
    return history


def last_progress(folder: RunFolder, trial_id: str, job: str) -> tuple[int, float]:
    """How far a trial has come: the last step of its curve, and when a checkpoint was last written."""
    written = [*folder.trial(trial_id).glob("checkpoint*"), *(folder.jobs.glob(f"{job}*checkpoint*") if job else ())]
    return _last_step(folder.curve_path(trial_id)), max((path.stat().st_mtime for path in written), default=0.0)


def _last_step(curve: Path) -> int:
    """Step of a curve's last whole line, read from its end."""
    if not curve.exists():
        return 0
    with curve.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        lines = file.read().split(b"\n")[:-1]
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (ValueError, KeyError, TypeError):
        return 0
