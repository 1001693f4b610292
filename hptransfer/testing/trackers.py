"""Contract kit of the trackers: each trial once, without doubled points.

A check takes a function that opens the tracker of a run folder again, and one that reads the store. The latter returns
the content of the store by trial id, such as states and curves, without the names of trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hptransfer.core.io import append_jsonl, read_jsonl, write_json
from hptransfer.core.records import DONE, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import SweepResults, Tracker

ReadStore = Callable[[], Mapping[str, Any]]
OUTCOME = Outcome(state=DONE, loss=1.0, loss_se=0.1, steps=3)


def finished_trial(folder: RunFolder, name: str) -> Trial:
    """Write a finished trial with a curve of three points."""
    trial = Trial(id=name, scale=Scale({"width": 1}), tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1)
    folder.write_trial(trial)
    for step in range(3):
        point = {"step": step, "tokens": 10 * step, "loss": 3.0 - step, "time": 1.0e9 + step}
        append_jsonl(folder.curve_path(name), [point])
    write_json(folder.outcome_path(name), OUTCOME.to_json())
    return trial


def _write(tracker: Tracker, folder: RunFolder, trials: list[Trial]) -> None:
    for trial in trials:
        tracker.log(trial, OUTCOME, read_jsonl(folder.curve_path(trial.id)))
    tracker.summarize(SweepResults(metrics={"loss": 1.0}, files=()))
    tracker.close()


def check_again_changes_nothing(folder: RunFolder, reopen: Callable[[], Tracker], read: ReadStore) -> None:
    """Check that a tracker that is opened again writes nothing twice."""
    trials = [finished_trial(folder, name) for name in ("first", "second")]
    _write(reopen(), folder, trials)
    before = read()
    assert before, "the store must show the written trials"
    _write(reopen(), folder, trials)
    assert read() == before, f"writing the same again must change nothing: {before} became {read()}"


def check_followed_trials(folder: RunFolder, reopen: Callable[[], Tracker], read: ReadStore) -> None:
    """Check that a trial followed in part is completed without doubles.

    Another tracker takes over halfway, as after a crash. The trial must then look like one that was only logged.
    """
    trials = [finished_trial(folder, name) for name in ("logged", "followed")]
    reopen().follow(trials[1], read_jsonl(folder.curve_path("followed"))[:2])
    _write(reopen(), folder, trials)
    stored = read()
    assert stored["followed"] == stored["logged"], f"expected {stored['logged']}, got {stored['followed']}"


def prepared_folder(path: Path) -> RunFolder:
    """Return a new run folder at a path."""
    folder = RunFolder(path)
    folder.create()
    folder.driver_lock.touch()
    return folder


CHECKS = (check_again_changes_nothing, check_followed_trials)
