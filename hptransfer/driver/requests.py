"""Requests of other shells to a run's driver, as small files.

The driver handles them at its next tick.

A request stays until it is carried out: if the driver ends in between, the next one continues with it. Requests are
carried out in the order in which they were written.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.config.sweep import read_axes
from hptransfer.core.attempts import reset_trial
from hptransfer.core.errors import ConfigError, HptransferError, RunFolderError, unknown
from hptransfer.core.io import read_json, reading, set_aside, write_json
from hptransfer.core.records import CAUSES, CODE_ERROR, FAILED, Number, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.jobs import JobManager
from hptransfer.driver.trial_index import TrialIndex

CANCEL = "cancel"
RETRY = "retry"
# Far more than a request for all trials of a run takes.
MOST_BYTES_A_REQUEST = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """A selection of trials to cancel or to train again.

    An empty field selects all.

    Attributes:
        verb: CANCEL or RETRY.
        scale: values of some axes.
        trials: first characters of ids.
        causes: causes of failure, of records.CAUSES.
    """

    verb: str
    scale: Mapping[str, Number] = field(default_factory=dict)
    trials: Sequence[str] = ()
    causes: Sequence[str] = ()

    def selects(self, trial: Trial, outcome: Outcome | None) -> bool:
        """Test if the request selects a trial.

        Unfinished trials can be cancelled, failed ones retried.
        """
        if self.verb == CANCEL and outcome is not None:
            return False
        if self.verb == RETRY and (outcome is None or outcome.state != FAILED):
            return False
        if not self.covers(trial.scale):
            return False
        if self.trials and not trial.id.startswith(tuple(self.trials)):
            return False
        return not self.causes or (outcome is not None and (outcome.cause or CODE_ERROR) in self.causes)

    def covers(self, scale: Scale) -> bool:
        """Test if a scale has the requested values of axes."""
        return all(scale.axes.get(axis) == value for axis, value in self.scale.items())

    def select_from(self, index: TrialIndex) -> list[str]:
        """Ids of the trials that the request selects now."""
        return [trial.id for trial in index.trials.values() if self.selects(trial, index.outcomes.get(trial.id))]


def make_request(
    verb: str, axes: Mapping[str, Any], *, scale: Sequence[str], trials: Sequence[str], causes: Sequence[str]
) -> Request:
    """Return the request that the command line describes.

    Args:
        axes: axes of the run's grid.

    Raises:
        ConfigError: an axis or a cause does not exist, or a value is not a number.
    """
    values = read_axes(scale, axes, "--scale ")
    cause_names = [cause.replace("-", " ").replace("_", " ") for cause in causes]
    for cause in cause_names:
        if cause not in CAUSES:
            raise ConfigError(unknown("cause", cause, CAUSES))
    return Request(verb=verb, scale=values, trials=tuple(trials), causes=tuple(cause_names))


def write_request(folder: RunFolder, request: Request) -> Path:
    """Write a request for the run's driver.

    The driver removes the file once the request is carried out.
    """
    (folder.path / "requests").mkdir(exist_ok=True)
    path = folder.path / "requests" / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    values = {"verb": request.verb, "scale": dict(request.scale), "trials": list(request.trials)}
    write_json(path, {**values, "causes": list(request.causes)})
    return path


def read_requests(
    folder: RunFolder, unusable: Callable[[Path, str], None] = lambda path, reason: None
) -> list[tuple[Path, Request]]:
    """Return requests that are not carried out yet, oldest first.

    Args:
        unusable: called with each file that holds no request, and the reason.
    """
    try:
        with os.scandir(folder.path / "requests") as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json") and entry.name[0] != ".")
    except FileNotFoundError:
        return []
    requests = []
    for name in names:
        path = folder.path / "requests" / name
        try:
            requests.append((path, _read_request(path)))
        except FileNotFoundError:
            continue  # carried out in between
        except (OSError, HptransferError) as error:
            unusable(path, str(error))
    return requests


def set_aside_request(path: Path, reason: str) -> str:
    """Rename an unusable request's file, and return a line about it."""
    set_aside(path)
    return f"a request was set aside: {reason.partition('; ')[0]}"


def _read_request(path: Path) -> Request:
    """Return the request that a file holds.

    Raises:
        RunFolderError: the file is damaged, or is not a request.
    """
    if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MOST_BYTES_A_REQUEST:
        raise RunFolderError(f"{path} is not a file of at most {MOST_BYTES_A_REQUEST:,} bytes")
    values = read_json(path, "verb", "scale", "trials", "causes")
    with reading(path):
        request = Request(**{key: value for key, value in values.items() if key != "schema"})
        if request.verb not in (CANCEL, RETRY):
            raise ValueError(unknown("verb", str(request.verb), (CANCEL, RETRY)))
        if not all(isinstance(value, int | float) for value in request.scale.values()):
            raise ValueError(f"scale must hold numbers, got {request.scale}")
        for key, words in (("trials", request.trials), ("causes", request.causes)):
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"{key} must be a list of texts, got {words!r}")
    return request


def carry_out(request: Request, index: TrialIndex, jobs: JobManager) -> bool:
    """Carry out a request as far as possible at once.

    Returns:
        True if nothing of it is left to do.
    """
    selected = request.select_from(index)
    if not request.trials:
        for scale, state in index.scales.items():
            if request.covers(scale):
                state.stopped = request.verb == CANCEL
    if request.verb == CANCEL:
        done = not jobs.cancel(selected)
        index.remove_waiting(selected)
        return done
    for trial_id in selected:
        reset_trial(index.folder, trial_id, index.outcomes[trial_id], job=jobs.job_of(trial_id), forgive=True)
        index.reopen(trial_id)
        if not jobs.train_again(trial_id):
            index.at(index.trials[trial_id].scale).waiting.append(trial_id)
    return True
