"""What several tests need: tiny sweeps, and a look into a finished run."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pty
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose import compose
from hptransfer.config.sweep import SweepConfig, dump_sweep
from hptransfer.core.io import write_json, write_text
from hptransfer.core.records import DONE, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from tests.support.waiting import Process

ROOT = Path(__file__).parents[2]

# A sweep of 2 scales x 3 learning rates that trains in a second or two. A job is one stack: nothing is measured, and
# numbers can be compared to the bit.
TINY = (
    "launcher.stack=16",
    "grid.width.values=[16,32]",
    "grid.depth.values=[1]",
    "grid.tokens.values=[4096]",
    "space.lr.count=3",
    "space.lr.low=0.00390625",
    "space.lr.high=0.0625",
    "space.lr.extend=0",
    "target.width=64",
    "~target.depth",
    "~target.tokens",
    "run.validation_windows=16",
)
ONE_SCALE = ("grid.width.values=[16]", "target.width=16")
INLINE = ("launcher=inline", "tracker=none")


def tiny(runs: Path, *overrides: str, inline: bool = True) -> SweepConfig:
    """The tiny sweep in a folder of runs."""
    return compose("quickstart", [*TINY, *(INLINE if inline else ()), f"runs={runs}", *overrides])


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: a process of its own imports PyTorch again."""
    stdout, stderr, code = StringIO(), StringIO(), 0
    with (
        chdir(cwd or Path.cwd()),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
    ):
        warnings.simplefilter("ignore")  # as a user's process does not raise them
        patch.setenv("PYTHONPATH", str(ROOT))
        try:
            main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "hptransfer.cli.main", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def start(*arguments: str, cwd: Path | None = None) -> Process:
    """Starts the command line and returns at once."""
    return Process(
        [sys.executable, "-m", "hptransfer.cli.main", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def terminal() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """A terminal: its screen, and the end that programs read and write. Closing the screen hangs it up."""
    leader, follower = pty.openpty()
    with io.FileIO(leader, "r+") as screen, io.FileIO(follower, "r+") as programs:
        yield screen, programs


def environment() -> dict[str, str]:
    """The environment of commands: this checkout's package, also from another directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def finished_run(overrides: Sequence[str]) -> RunFolder:
    """The run of a sweep whose outcomes are there without having been trained: a parabola at every scale."""
    plan = make_plan(compose("quickstart", overrides))
    folder = plan.config.folder
    folder.create()
    write_text(folder.sweep, dump_sweep(plan.config))
    write_json(folder.target, plan.target_json())
    for scale in plan.scales:
        for value in plan.grids["lr"]:
            trial = plan.trial(scale, {"lr": value}, 0)
            folder.write_trial(trial)
            outcome = Outcome(state=DONE, loss=3.0 + (math.log2(value) + 6) ** 2 / 20, loss_se=0.1, steps=64)
            write_json(folder.outcome_path(trial.id), outcome.to_json())
    return folder


def outcomes(folder: RunFolder) -> dict[str, str]:
    """State by trial id; "open" for a trial without an outcome."""
    states = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        states[trial.id] = outcome.state if outcome else "open"
    return states


def workers(folder: Path) -> list[int]:
    """Process ids of workers of a run folder, this machine's /proc read."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hptransfer.worker" in words and str(folder).encode() in words:
            found.append(int(entry.parent.name))
    return found


def sweep_arguments(runs: Path, *overrides: str) -> Sequence[str]:
    """Arguments of `hptransfer sweep` for the tiny sweep."""
    return ["sweep", "quickstart", *TINY, f"runs={runs}", *overrides]
