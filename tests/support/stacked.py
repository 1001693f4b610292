"""Jobs of trials of one scale, a clock that measures what it is told to, and how a job was split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.io import read_json
from hptransfer.core.records import DONE, Job, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.training import loop
from tests.support.helpers import ONE_SCALE, outcomes, tiny

LONG = ("grid.tokens.values=[73728]", *ONE_SCALE)
"""288 steps: enough for a calibration of three trials or more."""


def stepping(*shares: float) -> dict[int, float]:
    """Seconds of a step by size, from a trial's share of it in stacks of 1, 2, 4 and so on."""
    return {2**power: 2**power * share for power, share in enumerate(shares)}


class Clock:
    """Steps that take what they are told to, and how often they were measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> None:
        self.measured: list[int] = []
        self.seconds = seconds
        monkeypatch.setattr(loop, "measure_step", self.measure)

    def measure(self, run: Any, *, trials: int, **_: Any) -> float:
        self.measured.append(trials)
        return self.seconds[trials]


def of_one_scale(runs: Path, *overrides: str, count: int = 4, seed: int = 0) -> list[Trial]:
    plan = make_plan(tiny(runs, f"space.lr.count={count}", *overrides))
    (scale,) = plan.scales
    return [plan.trial(scale, {"lr": value}, seed) for value in plan.grids["lr"]]


def go_on() -> None:
    """No reason to stop."""


def write_job(folder: RunFolder, name: str, trials: list[Trial]) -> None:
    folder.create()
    folder.driver_lock.touch()
    for trial in trials:
        folder.write_trial(trial)
    first = trials[0]
    folder.write_job(Job(id=name, trials=[t.id for t in trials], scale=first.scale, params=first.params, flops=1.0))


def stacks(folder: RunFolder, name: str) -> list[int]:
    return [len(stack) for stack in read_json(folder.stacks_path(name))["stacks"]]


def trained_with(folder: RunFolder) -> list[int]:
    """Of all trials, how many trained as one; all are done."""
    assert set(outcomes(folder).values()) == {DONE}
    return sorted(read_json(path)["stack"] for path in folder.path.glob("trials/*/outcome.json"))
