"""finished.jsonl: a line a finished trial, so that `status` reads one file instead of twenty thousand.

The trial folders stay the truth: a line counts only while the outcome's file is as old as the line says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hptransfer.core.io import append_jsonl
from hptransfer.core.records import Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder


class OutcomeIndex:
    """The file of one run; the driver alone writes it."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "finished.jsonl"
        self._known = {trial_id: int(line["written"]) for trial_id, line in _lines(folder).items()}

    def write(self, trial: Trial, outcome: Outcome, written: int, job: str) -> None:
        """Adds a trial, unless its outcome stands there.

        Args:
            written: when its outcome was, in nanoseconds since 1970.
        """
        if self._known.get(trial.id) == written:
            return
        self._known[trial.id] = written
        light = replace(outcome, groups=()).to_json()
        described = {**replace(trial, run={}).to_json(), "outcome": light, "written": written, "job": job}
        append_jsonl(self._path, [described])


def read_outcome_index(folder: RunFolder) -> dict[str, tuple[Trial, Outcome, int, str]]:
    """By trial: itself without its run, its outcome without groups, when that was written, its job."""
    found = {}
    scales: dict[Scale, Scale] = {}
    for trial_id, line in _lines(folder).items():
        written, job = int(line.pop("written")), str(line.pop("job"))
        outcome = Outcome.from_json(line.pop("outcome"))
        scale = Scale(line["scale"])
        trial = Trial(**{**line, "scale": scales.setdefault(scale, scale)})
        found[trial_id] = trial, outcome, written, job
    return found


def _lines(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The last line of every trial. What cannot be read (a writer was killed) is passed over: its trial's folder is."""
    path = folder.path / "finished.jsonl"
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            values = json.loads(line)
            found[str(values["id"])] = values
        except (ValueError, KeyError, TypeError):
            continue
    return found
