"""A sweep of a small script, for the tests of what a script is given, how it ends and what is set."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config.compose import compose
from hptransfer.core.records import Outcome, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import Plan, make_plan
from hptransfer.worker.runners import StackContext
from hptransfer.worker.runners.script.runner import ScriptRunner

# Its optimum falls with the square root of the width: 2^-6 at width 32.
BOWL = """
import math, sys
import hptransfer
width, lr = int(sys.argv[1]), float(sys.argv[2])
best = -6 - 0.5 * math.log2(width / 32)
for step in range(1, 4):
    hptransfer.report(step=step, loss=2 + 32 / width + 0.1 * (math.log2(lr) - best) ** 2 + 1 / step)
"""
SWEEP: Mapping[str, Any] = {
    "defaults": [
        "sweep",
        {"run": "script"},
        {"sampler": "grid"},
        {"launcher": "inline"},
        {"tracker": "none"},
        "_self_",
    ],
    "name": "bowl",
    "run": {
        "command": ["{python}", "train.py", "{width}", "{lr}", "{seed}"],
        "params": "12 * width**2",
        "tokens": 1000,
        "metric": {"key": "loss"},
    },
    "grid": {"width": {"values": [32, 64, 128]}},
    "space": {"lr": {"low": 2**-9, "high": 2**-3, "count": 7}},
    "target": {"width": 256},
}


def write_sweep(folder: Path, script: str = BOWL, **run: Any) -> Path:
    """A sweep file and its script; `run` replaces parts of its run."""
    (folder / "train.py").write_text(script)
    path = folder / "bowl.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "run": {**SWEEP["run"], **run}}))
    return path


def plan_of(folder: Path, script: str = BOWL, *overrides: str, **run: Any) -> Plan:
    path = write_sweep(folder, script, **{"cwd": str(folder), **run})
    return make_plan(compose(str(path), [f"runs={folder / 'runs'}", *overrides]))


def execute(
    plan: Plan, *, attempt: int = 1, stop: Callable[[], str | None] = lambda: None, lr: float = 2**-6
) -> tuple[Trial, Outcome, RunFolder]:
    """Runs one trial of the smallest scale."""
    folder = plan.config.folder
    folder.create()
    trial = plan.trial(plan.scales[0], {"lr": lr}, 0)
    folder.write_trial(trial)
    found: list[Outcome] = []
    context = StackContext("job", attempt, 0, folder.jobs / "job.checkpoint", 300, stop)
    ScriptRunner().execute([trial], folder, lambda trial, outcome: found.append(outcome), context)
    (outcome,) = found
    return trial, outcome, folder


def reports(*lines: str, then: str = "") -> str:
    """A script that writes these lines to its metrics file."""
    written = "".join(f"{line}\n" for line in lines)
    return f"import os, sys\nopen(os.environ['HPTRANSFER_METRICS'], 'a').write({written!r})\n{then}"


def points(*losses: float) -> list[str]:
    return [json.dumps({"step": 10 * (k + 1), "loss": loss}) for k, loss in enumerate(losses)]
