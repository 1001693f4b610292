"""Contract kit of the runners: sizes, identity, outcomes, resumption.

A check takes the runner and a run as plain JSON values, as in a trial's file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hptransfer.core.errors import Interrupted
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import DIVERGED, DONE, PREEMPTED, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import Runner, StackContext

Run = Mapping[str, Any]


def check_identity(runner: Runner, run: Run) -> None:
    """Check that size and identity of a run are stable and plain."""
    size = runner.size(run)
    assert size == runner.size(run), f"size must be stable, got {size} and {runner.size(run)}"
    assert size.params >= 1, f"params must be at least 1, got {size.params}"
    assert size.flops > 0, f"flops must be above 0, got {size.flops}"
    settings = runner.identity_settings(run)
    assert json.loads(json.dumps(settings)) == settings, "identity_settings must be plain JSON values"
    assert runner.fingerprint(run) == runner.fingerprint(run), "the fingerprint must be stable"
    assert runner.fingerprint_source(run), "fingerprint_source must name the content that the fingerprint is a hash of"
    for gpu in (False, True):
        assert runner.job_size(run, gpu=gpu) >= 1, "a job must carry at least one trial"


def check_outcomes(runner: Runner, run: Run, path: Path) -> None:
    """Check that a trial ends once, with a curve of growing steps."""
    trial, ends, folder = _execute(runner, run, path, lambda: None)
    assert [ended.id for ended, _ in ends] == [trial.id], f"finish must be called once a trial, got {ends}"
    ((_, outcome),) = ends
    assert outcome.state in (DONE, DIVERGED), f"the trial must be done or diverged, got {outcome}"
    _check_curve(folder, trial)


def check_interruption(runner: Runner, run: Run, path: Path, asked: int = 3) -> None:
    """Check that a stopped trial resumes to the outcome it has undisturbed.

    Args:
        asked: questions that are answered with None before `stop` gives a cause.
    """
    _, ((_, expected),), undisturbed = _execute(runner, run, path / "whole", lambda: None)
    questions = iter(range(asked))
    stop = lambda: None if next(questions, None) is not None else PREEMPTED  # noqa: E731
    interrupted = False
    try:
        _execute(runner, run, path / "stopped", stop)
    except Interrupted:
        interrupted = True
    assert interrupted, "a runner whose `stop` gives a cause must raise Interrupted"
    trial, ((_, resumed),), folder = _execute(runner, run, path / "stopped", lambda: None)
    assert _without_times(resumed) == _without_times(expected), f"resumed to {resumed}, undisturbed {expected}"
    _check_curve(folder, trial)
    assert len(read_jsonl(folder.curve_path(trial.id))) == len(read_jsonl(undisturbed.curve_path(trial.id))), (
        "a resumed curve must have as many points as an undisturbed one"
    )


def _execute(
    runner: Runner, run: Run, path: Path, stop: Callable[[], str | None]
) -> tuple[Trial, list[tuple[Trial, Outcome]], RunFolder]:
    """Run one trial."""
    folder = RunFolder(path)
    folder.create()
    folder.driver_lock.touch()
    size = runner.size(run)
    trial = Trial(id="kit", scale=Scale({"width": 1}), tuned={}, seed=0, run=run, flops=size.flops, params=size.params)
    folder.write_trial(trial)
    ends: list[tuple[Trial, Outcome]] = []
    context = StackContext("job", 1, 0, folder.jobs / "job.checkpoint", 300.0, stop)
    runner.execute([trial], folder, lambda ended, outcome: ends.append((ended, outcome)), context)
    return trial, ends, folder


def _check_curve(folder: RunFolder, trial: Trial) -> None:
    steps = [point["step"] for point in read_jsonl(folder.curve_path(trial.id))]
    assert steps, "a trial must have a curve"
    assert steps == sorted(set(steps)), f"steps of a curve must grow, got {steps}"


def _without_times(outcome: Outcome) -> Outcome:
    return dataclasses.replace(outcome, seconds=0.0, attempts=1)
