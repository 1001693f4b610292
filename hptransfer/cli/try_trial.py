"""The verb that trains one trial by hand: try."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.cli.verb import Verb
from hptransfer.core.errors import EXIT_DONE, EXIT_TRIALS_FAILED, ConfigError, printable

if TYPE_CHECKING:
    from hptransfer.core.records import Outcome, Trial
    from hptransfer.core.run_folder import RunFolder
    from hptransfer.planning.plan import Plan


def _try_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name in sweeps/, or path to a YAML file")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME=VALUE",
        help="values of the trial, such as width=256 lr=0.01 (default: the smoke trial's), and settings that override "
        "the sweep file's",
    )
    parser.add_argument("--full", action="store_true", help="train all steps, although run.smoke names fewer")


def _try(args: argparse.Namespace) -> int:
    from hptransfer.config.compose import compose
    from hptransfer.core.records import SMOKE
    from hptransfer.planning.plan import make_plan
    from hptransfer.smoke_trial import first_trial

    overrides, words = _split(args.words)
    plan = make_plan(compose(args.sweep, overrides))
    plan.runner.check_files(plan.run(plan.target), plan.config.folder)
    plan = dataclasses.replace(plan, shortened=bool(plan.config.run.get("smoke")) and not args.full)
    trial = first_trial(plan, SMOKE)
    if words:
        trial = _trial_at(plan, trial, words)
    print(printable(f"{trial.name}:"))
    if command := plan.runner.command_line(trial, plan.config.folder):
        print(printable(f"  {command}"), flush=True)
    folder, outcome = _train(trial)
    return _print_outcome(folder, trial, outcome)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides of the sweep file from values of the trial."""
    from hptransfer.config.sweep import SweepConfig

    keys = {field.name for field in dataclasses.fields(SweepConfig)}
    overrides: list[str] = []
    values: list[str] = []
    for word in words:
        name = word.partition("=")[0]
        is_override = name.lstrip("+~").partition("@")[0].partition(".")[0] in keys
        (overrides if is_override else values).append(word)
    return overrides, values


def _trial_at(plan: Plan, first: Trial, words: Sequence[str]) -> Trial:
    """Return the trial at given values, otherwise the smoke trial's.

    Raises:
        ConfigError: a name is neither an axis nor tuned, or its value cannot be trained.
    """
    from hptransfer.config.sweep import read_axes
    from hptransfer.core.records import SMOKE

    values = read_axes(words, [*plan.config.grid, *plan.config.space])
    for name in values.keys() & plan.config.space.keys():
        if values[name] > (largest := plan.config.space[name].largest):
            raise ConfigError(f"{name} must be at most {largest:g}, as the run gets 1 minus it, got {values[name]:g}")
    scale = plan.scale({key: values.get(key, value) for key, value in first.scale.axes.items()})
    tuned = {key: float(values.get(key, value)) for key, value in first.tuned.items()}
    return plan.trial(scale, tuned, first.seed, SMOKE)


def _train(trial: Trial) -> tuple[RunFolder, Outcome]:
    """Train a trial in this process, in a folder of its own."""
    from hptransfer.core.records import Job
    from hptransfer.core.run_folder import RunFolder
    from hptransfer.worker.job import run_job

    folder = RunFolder(Path(tempfile.mkdtemp(prefix="hptransfer-try-")))
    folder.create()
    folder.write_trial(trial)
    job = Job(
        id=trial.id, trials=[trial.id], scale=trial.scale, params=trial.params, flops=trial.flops, submitted=time.time()
    )
    folder.write_job(job)
    try:
        stopped = run_job(folder, job.id)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    outcome = folder.read_outcome(trial.id)
    if stopped or outcome is None:
        raise ConfigError(f"the trial has no outcome: {stopped or 'it was stopped'} ({folder.path})")
    return folder, outcome


def _print_outcome(folder: RunFolder, trial: Trial, outcome: Outcome) -> int:
    from hptransfer.core.io import read_jsonl
    from hptransfer.core.records import FAILED, short

    if outcome.state == FAILED:
        print(printable(f"failed after {outcome.seconds:.1f} s: {outcome.error}"))
        print(f"its folder is kept: {folder.trial(trial.id)}")
        return EXIT_TRIALS_FAILED
    points = len(read_jsonl(folder.curve_path(trial.id)))
    loss = "" if outcome.loss is None else f": loss {short(outcome.loss)}"
    print(f"{outcome.state} after {outcome.seconds:.1f} s{loss}, from {points} points up to step {outcome.steps}")
    shutil.rmtree(folder.path, ignore_errors=True)
    return EXIT_DONE


TRY_VERB = Verb(
    "train one trial here, outside of any run, and print its loss", _try_arguments, _try, "the trial is not kept"
)
