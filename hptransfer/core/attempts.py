"""Attempts at a trial that ended without a result, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.io import open_for_reading, read_json, read_tail, reading, write_json
from hptransfer.core.records import Outcome
from hptransfer.core.run_folder import RunFolder

MAX_POINT_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Attempt at a trial that ended without a result, or was reset.

    Attributes:
        time: when the driver saw its end, in seconds since 1970.
        cause: one of records.CAUSES; None if its driver ended, which counts against nothing.
        job, number: the job's id, and the number of the job's attempt.
        step: last step of the trial's curve at that time.
        began: time of the curve's first point, in seconds since 1970; 0 without one. An attempt that continues an
            earlier one keeps its points.
        checkpoint: when its last checkpoint was written, in seconds since 1970; 0 without one.
        seconds: device time, the trial's share of the job's.
    """

    time: float
    cause: str | None
    job: str = ""
    number: int = 1
    node: str | None = None
    detail: str = ""
    step: int = 0
    began: float = 0.0
    checkpoint: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class History:
    """All attempts at one trial, oldest first.

    Attributes:
        since: index of the first attempt that counts; `hptransfer retry` moves it past all earlier ones.
    """

    attempts: Sequence[Attempt] = ()
    since: int = 0

    def with_attempt(self, attempt: Attempt) -> History:
        """Return the history with one more attempt."""
        return History((*self.attempts, attempt), self.since)

    def forgiven(self) -> History:
        """Return the history with no attempt that counts against the trial."""
        return History(self.attempts, len(self.attempts))

    def counted(self, cause: str, *, progress: bool) -> int:
        """Count the attempts with this cause that count against the trial.

        Args:
            progress: attempts before one that advanced the trial do not count. A script that restarts may reach a
                later step by chance, before it hangs again; only a step beyond points that it kept is an advance.
        """
        count, step, began, checkpoint = 0, 0, None, 0.0
        for index, attempt in enumerate(self.attempts):
            # Another node's clock may be behind, so that a checkpoint is only another one, not a later one.
            farther = attempt.step > step and attempt.began == began
            advanced = farther or attempt.checkpoint not in (0.0, checkpoint)
            step, began, checkpoint = max(step, attempt.step), attempt.began, attempt.checkpoint or checkpoint
            if index < self.since:
                continue
            if progress and advanced:
                count = 0
            elif attempt.cause == cause:
                count += 1
        return count

    @property
    def seconds(self) -> float:
        """Device time of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)


def _path(folder: RunFolder, trial_id: str) -> Path:
    return folder.trial(trial_id) / "attempts.json"


def read_history(folder: RunFolder, trial_id: str) -> History:
    """Read a trial's history; it is empty without a file.

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
    """Write a trial's history."""
    values: dict[str, Any] = {"since": history.since, "attempts": [asdict(attempt) for attempt in history.attempts]}
    write_json(_path(folder, trial_id), values)


def reset_trial(folder: RunFolder, trial_id: str, outcome: Outcome, *, job: str = "", forgive: bool) -> History:
    """Reset a trial that ended without a loss.

    The trial is trained again. Its outcome becomes the last attempt of its history.

    Args:
        forgive: earlier attempts no longer count against it.
    """
    history = read_history(folder, trial_id)
    path = folder.outcome_path(trial_id)
    if outcome.attempts > len(history.attempts):  # the driver has not recorded this attempt
        step, checkpoint, began = last_progress(folder, trial_id, job)
        history = history.with_attempt(
            Attempt(
                time=path.stat().st_mtime,
                cause=outcome.cause,
                job=job,
                number=folder.read_job(job).attempt if job else outcome.attempts,
                detail=outcome.error or "",
                step=step,
                began=began,
                checkpoint=checkpoint,
                seconds=outcome.seconds,
            )
        )
    if forgive:
        history = history.forgiven()
    write_history(folder, trial_id, history)
    path.unlink(missing_ok=True)
    return history


def last_progress(folder: RunFolder, trial_id: str, job: str) -> tuple[int, float, float]:
    """Return a trial's last step, last checkpoint and first point.

    Times are in seconds since 1970; all are 0 without a file.
    """
    of_script = folder.trial(trial_id).glob("checkpoint*")
    of_stacks = folder.jobs.glob(f"{job}*checkpoint*") if job else ()
    checkpoints = [*of_script, *of_stacks]
    curve = folder.curve_path(trial_id)
    return _last_step(curve), max((path.stat().st_mtime for path in checkpoints), default=0.0), _first_time(curve)


def _last_step(curve: Path) -> int:
    """Return the step of a curve's last complete line; 0 without one."""
    lines = [line for line in read_tail(curve, 4096) if line.endswith("\n")]
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _first_time(curve: Path) -> float:
    """Return the time of a curve's first point; 0 without one."""
    try:
        with open_for_reading(curve) as file:
            return float(json.loads(file.readline(MAX_POINT_BYTES))["time"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0.0
