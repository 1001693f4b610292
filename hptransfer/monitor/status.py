"""Status of a run, with the reasons of failed or waiting trials."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.attempts import read_history
from hptransfer.core.io import read_json, read_tail
from hptransfer.core.locks import locked_by
from hptransfer.core.records import CANCELLED, CODE_ERROR, FAILED, LOSS, Job, Objective, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import PILOT_FAILED, SCHEDULER_RUNNING, read_driver_state, read_states
from hptransfer.driver.jobs import read_jobs
from hptransfer.driver.outcome_index import read_outcome_index
from hptransfer.driver.progress import TRIAL_RUNNING, TRIAL_WAITING, Progress, count_progress
from hptransfer.driver.requests import CANCEL, read_requests
from hptransfer.monitor.failures import reason_key

TAIL_BYTES = 8192


@dataclass(frozen=True)
class Trouble:
    """Reason of a trial that failed or is waiting.

    Attributes:
        state: FAILED, CANCELLED or TRIAL_WAITING.
        reason: text shared by all trials with the same reason.
        detail: text of this trial: its error, or the scheduler's id of its job.
        node: node of its last attempt, if known.
        job: id of its job; None without one.
    """

    trial: Trial
    state: str
    reason: str
    detail: str = ""
    node: str | None = None
    job: str | None = None


@dataclass(frozen=True)
class Status:
    """State of a run at one moment.

    Attributes:
        troubles: reasons of all failed or waiting trials.
        driver: the driver's pid, host and since; None without a driver.
        blocked: reason for which the run cannot continue without intervention, if any.
    """

    folder: RunFolder
    progress: Progress
    troubles: list[Trouble] = field(default_factory=list)
    driver: Mapping[str, Any] | None = None
    blocked: str | None = None

    @property
    def is_final(self) -> bool:
        """True if nothing will change by itself."""
        return self.driver is None and not self.progress.count(TRIAL_RUNNING)


def read_status(folder: RunFolder) -> Status:
    """Read the status of a run from its folder.

    Raises:
        RunFolderError: a file is damaged.
    """
    driver = locked_by(folder.driver_lock)
    driver_state = read_driver_state(folder)
    rows, job_of_trial = read_trials_with_outcomes(folder)
    leased = _leased(folder, rows)
    waiting = _Waiting(folder, driver is not None, driver_state, {trial.scale.key for trial, _ in rows})
    running = leased | waiting.running
    troubles = [
        _failed(folder, trial, outcome, job_of_trial.get(trial.id)) if outcome else waiting.trouble(trial)
        for trial, outcome in rows
        if (outcome is None and trial.id not in running) or (outcome is not None and outcome.state == FAILED)
    ]
    slots, since_s = waiting.side_by_side(running), _since_last_end(folder, driver)
    progress = count_progress(rows, running, slots, read_objective(folder), since_s=since_s)
    return Status(folder, progress, troubles, driver, driver_state.get("blocked") if driver else None)


def running_trials(folder: RunFolder, rows: Sequence[tuple[Trial, Outcome | None]]) -> set[str]:
    """Return the ids of the trials that are being trained now."""
    states = read_states(folder)
    scheduled = (job for job in read_jobs(folder) if states.get(job.id, {}).get("state") == SCHEDULER_RUNNING)
    return _leased(folder, rows) | {trial for job in scheduled for trial in job.trials}


def _leased(folder: RunFolder, rows: Sequence[tuple[Trial, Outcome | None]]) -> set[str]:
    return {trial.id for trial, outcome in rows if outcome is None and locked_by(folder.lease(trial.id))}


def _since_last_end(folder: RunFolder, driver: Mapping[str, Any] | None) -> float:
    """Return the seconds since a trial ended or the driver started.

    They are 0 if neither is known.
    """
    ended = (_modified_ns(f"{folder.path}/finished.jsonl") or 0) / 1e9
    since = max(ended, float((driver or {}).get("since", 0.0)))
    return max(0.0, time.time() - since) if since else 0.0


def read_objective(folder: RunFolder) -> Objective:
    """Return the metric that ranks the trials of a run."""
    return Objective.of_target(read_json(folder.target)) if folder.target.exists() else LOSS


def read_trials_with_outcomes(folder: RunFolder) -> tuple[list[tuple[Trial, Outcome | None]], dict[str, str]]:
    """Return all trials with their outcomes, and the jobs of indexed outcomes.

    Outcomes that the driver has indexed are not read again unless their file has changed.

    Returns:
        Trials with outcomes, None if unfinished; job ids by trial id.
    """
    finished = read_outcome_index(folder)
    rows: list[tuple[Trial, Outcome | None]] = []
    scales: dict[Scale, Scale] = {}
    trials = folder.path / "trials"
    with os.scandir(trials) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        indexed = finished.get(name)
        if indexed and indexed[2] == _modified_ns(f"{trials}/{name}/outcome.json"):
            rows.append((indexed[0], indexed[1]))
        elif (folder.trial(name) / "trial.json").exists():  # else the driver is just creating it
            trial, outcome = folder.read_trial(name), folder.read_outcome(name)
            object.__setattr__(trial, "scale", scales.setdefault(trial.scale, trial.scale))
            rows.append((trial, outcome))
    return rows, {name: job for name, (_, _, _, job) in finished.items()}


def _modified_ns(path: str) -> int | None:
    """Return a file's modification time in nanoseconds; None without a file."""
    try:  # for ten thousand files, building Path objects takes longer than the calls themselves
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return None


def _failed(folder: RunFolder, trial: Trial, outcome: Outcome, job: str | None) -> Trouble:
    cause = outcome.cause or CODE_ERROR
    attempts = f" after {outcome.attempts} attempts" if outcome.attempts > 1 else ""
    node = outcome.node or next((attempt.node for attempt in reversed(read_history(folder, trial.id).attempts)), None)
    return Trouble(trial, outcome.label, cause, f"{outcome.error}{attempts if cause != 'killed' else ''}", node, job)


class _Waiting:
    """Reasons of waiting trials, from scheduler states, driver.json and requests.

    Args:
        driver_state: content of driver.json.
        keys: exact keys of the run's scales.
    """

    def __init__(self, folder: RunFolder, driven: bool, driver_state: Mapping[str, Any], keys: Collection[str]) -> None:
        self._folder, self._driven = folder, driven
        self._states = read_states(folder)
        self._refused = "" if driven else _last_refusal(folder)
        self._delayed: Mapping[str, float] = driver_state.get("delayed", {}) if driven else {}
        self._pilot_reasons: Mapping[str, str] = driver_state.get("held", {})
        self._keys = keys
        self._cancels = [request for _, request in read_requests(folder) if request.verb == CANCEL]
        self._jobs: dict[str, Job] = {}
        for job in sorted(read_jobs(folder), key=lambda job: job.submitted):
            self._jobs |= dict.fromkeys(job.trials, job)
        self.running = {
            trial for trial, job in self._jobs.items() if self._state(job).get("state") == SCHEDULER_RUNNING
        }

    def side_by_side(self, running: Collection[str]) -> int:
        """Number of jobs to which the running trials belong, at least 1."""
        return max(1, len({job.id if (job := self._jobs.get(trial)) else trial for trial in running}))

    def _state(self, job: Job | None) -> Mapping[str, str]:
        return self._states.get(job.id, {}) if job else {}

    def trouble(self, trial: Trial) -> Trouble:
        """Return the reason for which a trial is waiting."""
        job = self._jobs.get(trial.id)
        state = self._state(job)
        reason, detail = self._reason(trial, job, state)
        node = state.get("node") or None
        return Trouble(trial, TRIAL_WAITING, reason, detail, node, job.id if job else None)

    def _reason(self, trial: Trial, job: Job | None, state: Mapping[str, str]) -> tuple[str, str]:
        if any(request.selects(trial, None) for request in self._cancels):
            return "being cancelled", ""
        if job and job.id in self._delayed:
            attempts = read_history(self._folder, trial.id).attempts
            last_attempt = attempts[-1] if attempts else None
            seconds = max(0, round(self._delayed[job.id] - time.time()))
            return (
                f"retry after {last_attempt.cause if last_attempt and last_attempt.cause else 'an interruption'}",
                f"in {seconds} s",
            )
        if state and self._driven:
            scheduler_reason = f" ({state['reason']})" if state.get("reason") not in ("", "None", None) else ""
            return f"{state['state']}{scheduler_reason}", f"job {state['scheduler']}" if state.get("scheduler") else ""
        pilot_reason = self._pilot_reasons.get(trial.scale.key)
        if pilot_reason is None and trial.scale.name not in self._keys:  # versions before 0.2 wrote names, not keys
            pilot_reason = self._pilot_reasons.get(trial.scale.name)
        if pilot_reason is not None and (self._driven or pilot_reason == PILOT_FAILED):
            return pilot_reason, ""
        if not self._driven:
            return "no driver runs", f"`hptransfer sweep` resumes it{self._refused}"
        return ("submitted", f"job {job.scheduler or job.id}") if job else ("waiting for a free slot", "")


def _last_refusal(folder: RunFolder) -> str:
    """Return the last error of a driver in the background, if any."""
    last_line = (_tail(folder.path / "driver.log") or [""])[-1]
    return f"; the last one ended with: {last_line}" if last_line.startswith("hptransfer: ") else ""


def last_log_line(folder: RunFolder, trouble: Trouble) -> str:
    """Return the last log line of a trial, or of its job."""
    if trouble.job is None:
        return ""
    lines = _tail(folder.jobs / f"{trouble.job}.log")
    of_trial = [line for line in lines if not line.startswith("trial ") or line.startswith(f"trial {trouble.trial.id}")]
    return (of_trial or lines or [""])[-1]


def _tail(path: Path) -> list[str]:
    """Return the last nonempty lines of a log, if it exists."""
    return [line.strip() for line in read_tail(path, TAIL_BYTES) if line.strip()]


def explain_troubles(status: Status, *, every: bool) -> Iterator[str]:
    """Yield lines about failed and waiting trials.

    Args:
        every: one line per trial; otherwise one per reason, with the number of trials and an example.
    """
    groups: dict[tuple[str, str, str], list[Trouble]] = {}
    for trouble in status.troubles:
        key = reason_key(trouble.trial, _shared_detail(trouble))
        groups.setdefault((trouble.state, trouble.reason, key), []).append(trouble)
    for (state, reason, _), troubles in sorted(groups.items()):
        if state == CANCELLED and not every:
            yield f"cancelled: {len(troubles)} trials, such as {troubles[0].trial.id} {troubles[0].trial.name}"
        elif every or len(troubles) == 1:
            yield from (f"{state}: {_trouble_line(status.folder, trouble)}" for trouble in troubles)
        else:
            shared = f": {detail}" if (detail := _shared_detail(troubles[0])) else ""
            example = _trouble_line(status.folder, troubles[0], said=f"{reason}{shared}")
            yield f"{state}: {len(troubles)} trials: {reason}{shared}; such as {example}"


def _shared_detail(trouble: Trouble) -> str:
    """Return the error of a trial's own code; empty for other reasons."""
    return trouble.detail if trouble.state == FAILED and trouble.reason == CODE_ERROR else ""


def _trouble_line(folder: RunFolder, trouble: Trouble, said: str = "") -> str:
    """Return a trial's reason, node and last log line in one line.

    Args:
        said: what the line says already, which is not repeated.
    """
    text = f"{trouble.reason}" + (f", {trouble.detail}" if trouble.detail else "")
    if (trouble.state != TRIAL_WAITING and trouble.reason in trouble.detail) or trouble.reason == CODE_ERROR:
        text = trouble.detail
    where = f" on {trouble.node}" if trouble.node and trouble.node not in text else ""
    line = last_log_line(folder, trouble)
    log = f"; log: {line[:200]}" if line and not (text and text in line) else ""
    told = f": {text}{where}" if text not in said else where
    return f"{trouble.trial.id} {trouble.trial.name}{told}{log}"
