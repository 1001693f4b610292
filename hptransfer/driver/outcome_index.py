"""Index of outcomes in one file, finished.jsonl.

It saves `status` from reading twenty thousand files.

The file has a line for each finished trial. The trial folders stay the truth: a line counts only while its time agrees
with that of the outcome's file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hptransfer.core.io import append_jsonl, read_text
from hptransfer.core.records import Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder


class OutcomeIndex:
    """Writer of one run's index; the driver alone uses it."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "finished.jsonl"
        self._known = {trial_id: int(line["written"]) for trial_id, line in _last_lines(folder).items()}

    def write(self, trial: Trial, outcome: Outcome, written: int, job: str) -> None:
        """Add a trial, unless the index has this outcome of it.

        Args:
            written: time of its outcome's file, in nanoseconds since 1970.
        """
        if self._known.get(trial.id) == written:
            return
        self._known[trial.id] = written
        light = replace(outcome, groups=()).to_json()
        described = {**replace(trial, run={}).to_json(), "outcome": light, "written": written, "job": job}
        append_jsonl(self._path, [described])


def read_outcome_index(folder: RunFolder) -> dict[str, tuple[Trial, Outcome, int, str]]:
    """Read the index of a run.

    Returns:
        By trial id: the trial without its run, and its outcome without groups. Then follow the time of the outcome's
        file, in nanoseconds since 1970, and the trial's job.
    """
    index = {}
    scales: dict[Scale, Scale] = {}
    for trial_id, line in _last_lines(folder).items():
        written, job = int(line.pop("written")), str(line.pop("job"))
        outcome = Outcome.from_json(line.pop("outcome"))
        scale = Scale(line["scale"])
        trial = Trial(**{**line, "scale": scales.setdefault(scale, scale)})
        index[trial_id] = trial, outcome, written, job
    return index


def _last_lines(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Return the last line of every trial.

    Lines that a killed writer left damaged are skipped: the trials' folders have the outcomes.
    """
    path = folder.path / "finished.jsonl"
    lines = {}
    for line in read_text(path, errors="replace").split("\n") if path.exists() else ():
        try:
            values = json.loads(line)
            lines[str(values["id"])] = values
        except (ValueError, KeyError, TypeError):
            continue
    return lines
