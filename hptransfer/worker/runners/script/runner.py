"""Script: anybody's training script, run as a command with a trial's values in its arguments."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.core.command_templates import TemplateValue, fill_template, format_value
from hptransfer.core.errors import ConfigError, DataError, Interrupted
from hptransfer.core.io import write_text
from hptransfer.core.records import CODE_ERROR, DIVERGED, DONE, FAILED, TIME_LIMIT, Outcome, Trial, digest, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS, OnTrialEnd, Runner, Size, StackContext
from hptransfer.worker.runners.script.command_line import arguments
from hptransfer.worker.runners.script.config import script_from_json
from hptransfer.worker.runners.script.costs import costs
from hptransfer.worker.runners.script.curve import (
    DivergedMetric,
    PrintedRows,
    ReportedRows,
    ScriptCurve,
    UnusableMetric,
)
from hptransfer.worker.runners.script.process import Process, ended_by, start

POLL_S = 0.1
# Signals by which a scheduler ends a job, and how long its word may come after the script's end.
ENDING = (signal.SIGTERM, signal.SIGKILL)
ASKED_S = 1.0
GIT_S = 10
# An argument that is a program's source, by a path from the working directory.
PROGRAM = re.compile(r"(?!/)[\w./-]+\.(?:py|sh|R|jl|pl|lua)")
# Settings that change no number of a trial: what it costs by formula, and how long it may take.
INDECISIVE = ("params", "flops", "tokens", "timeout_s", "grace_s")


class ScriptRunner(Runner):
    """A trial's command, run and watched."""

    has_source_tree = True
    sweeps_names = True
    can_prune = False

    def size(self, run: Mapping[str, Any]) -> Size:
        found = costs(script_from_json(run))
        return Size(found.params, found.flops)

    def decisive(self, run: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in run.items() if key not in INDECISIVE}

    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        read = script_from_json(run).read_names()
        if "settings" in read:
            return
        for name in names:
            if name not in read:
                raise ConfigError(
                    f"{name!r} is swept, but neither run.command nor run.environment has {{{name}}}: the script would "
                    "train the same at every value; give it there, or pass the path {settings} of a JSON file of all"
                )

    def source(self, run: Mapping[str, Any]) -> str:
        files = _files(run)
        return f"the content of {', '.join(files)}" if files else "the commit of run.cwd"

    def fingerprint(self, run: Mapping[str, Any]) -> str:
        files = _files(run)
        hashes = {argument: hashlib.sha256(path.read_bytes()).hexdigest() for argument, path in files.items()}
        return digest(hashes or {"commit": _commit(Path(run["cwd"]))})

    def check_there(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        place = folder.working_directory(run["cwd"]).absolute()
        program = next((word for word in run["command"] if PROGRAM.fullmatch(word)), None)
        if program is not None and not (place / program).is_file():
            raise DataError(
                f"run.command: there is no file {program!r} in {place}; correct its name or run.cwd (snapshot=true "
                "copies what git tracks)"
            )

    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """No groups: the answer is the values by their names, and the command that they make."""
        command = {"command": list(run["command"])}
        return {"base": {}, "decay": None, "groups": {}, "branch_multiplier": None, **command}

    def gpus(self) -> int:
        """NVIDIA's, as its driver lists them; no library is opened for it."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return len([name for name in visible.split(",") if name and name != "-1"])
        return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))

    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        return 1

    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        return 1

    def too_many(self, trials: Sequence[Trial]) -> None:
        """A script is never in a stack."""

    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        """None: what a script does in a second shows only once it has run."""
        return None

    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        for trial in trials:
            if not folder.outcome_path(trial.id).exists():
                print(f"trial {trial.id} {trial.name}", flush=True)
                outcome = _Attempt(trial, folder, context).run()
                said = outcome.error or f"loss {'-' if outcome.loss is None else short(outcome.loss)}"
                print(f"trial {trial.id} {outcome.state} {said}", flush=True)
                finish(trial, outcome)


class _Attempt:
    """One trial's script, from its start to its outcome."""

    def __init__(self, trial: Trial, folder: RunFolder, context: StackContext) -> None:
        self._trial, self._context = trial, context
        self._config = script_from_json(trial.run)
        self._folder = folder.trial(trial.id).resolve()
        self._working_directory = folder.working_directory(self._config.cwd)
        self._tokens = costs(self._config).tokens
        self._settings = self._folder / "settings.json"
        self._reported_path = self._folder / "reported.jsonl"
        self._curve = ScriptCurve(folder.curve_path(trial.id), self._config.metric)
        self._reported = ReportedRows(self._reported_path)
        pattern = self._config.metric.pattern
        self._printed = None if pattern is None else PrintedRows(pattern)
        self._started = time.monotonic()

    def run(self) -> Outcome:
        """
        Raises:
            Interrupted: it was asked to stop; the script has had its grace.
            Superseded: another attempt has taken over; the script is ended at once.
        """
        names = self._names()
        write_text(self._settings, json.dumps(names, indent=1) + "\n")
        with start(arguments(self._config, names), self._working_directory, self._environment(names)) as process:
            outcome = self._watch(process)
        if outcome.state != FAILED:
            self._curve.thin()
            self._reported_path.unlink(missing_ok=True)
        return outcome

    def _names(self) -> dict[str, TemplateValue]:
        """Everything that a template may name, and the script may read."""
        trial = self._trial
        tokens: dict[str, TemplateValue] = {} if self._tokens is None else {"tokens": self._tokens}
        return {
            **self._config.names,
            "params": trial.params,
            "flops": trial.flops,
            **tokens,
            "seed": trial.seed,
            "trial": trial.id,
            "trial_dir": str(self._folder),
            "settings": str(self._settings),
            "metrics": str(self._reported_path),
            "attempt": self._number(),
            "python": sys.executable,
        }

    def _number(self) -> int:
        """1, or one more than the attempt before, in whatever job that was."""
        if not self._settings.exists():
            return self._context.attempt
        return max(self._context.attempt, 1 + int(json.loads(self._settings.read_text(encoding="utf-8"))["attempt"]))

    def _environment(self, names: Mapping[str, TemplateValue]) -> dict[str, str]:
        own = {f"HPTRANSFER_{name.upper()}": format_value(value) for name, value in names.items()}
        added = {key: fill_template(str(value), names) for key, value in self._config.environment.items()}
        return {**os.environ, **own, **added}

    def _watch(self, process: Process) -> Outcome:
        grace_s = self._config.grace_s
        try:
            while (code := process.wait(POLL_S)) is None:
                self._take(process, last=False)
                if cause := self._context.stop():
                    process.stop(grace_s)
                    self._take(process, last=False)
                    raise Interrupted(cause)
                if self._late():
                    process.stop(grace_s)
                    return self._failed(f"it ran longer than run.timeout_s ({self._config.timeout_s:g} s)", TIME_LIMIT)
            if code == 0:
                self._take(process, last=True)
                return self._judged()
            self._take_what_can_be(process)
            if ended_by(code) in ENDING and (cause := self._asked_soon()):
                raise Interrupted(cause)
        except DivergedMetric:
            process.stop(grace_s)
            return self._ended(state=DIVERGED)
        except UnusableMetric as reason:
            process.stop(grace_s)
            return self._failed(str(reason), CODE_ERROR)
        return self._failed(*process.failure(code))

    def _asked_soon(self) -> str | None:
        """Why it was asked to stop: who ends a job signals script and worker at once, and either may be the faster."""
        until = time.monotonic() + ASKED_S
        while (cause := self._context.stop()) is None and time.monotonic() < until:
            time.sleep(POLL_S)
        return cause

    def _take(self, process: Process, *, last: bool) -> None:
        """Adds to the curve what the script has said since."""
        lines = list(process.new_lines())
        try:
            for row in self._rows(lines, last=last):
                self._curve.add(row)
        finally:
            self._curve.write()

    def _take_what_can_be(self, process: Process) -> None:
        """Of a script that failed: how it ended says more than a line that it did not get to finish."""
        try:
            self._take(process, last=False)
        except UnusableMetric:
            return

    def _rows(self, lines: Sequence[str], *, last: bool) -> Iterator[Mapping[str, Any]]:
        return self._reported.rows(last=last) if self._printed is None else self._printed.rows(lines)

    def _late(self) -> bool:
        timeout_s = self._config.timeout_s
        return timeout_s is not None and time.monotonic() - self._started > timeout_s

    def _judged(self) -> Outcome:
        loss, error = self._curve.judge()
        return self._ended(state=DONE, loss=loss, loss_se=error)

    def _failed(self, reason: str, cause: str) -> Outcome:
        return self._ended(state=FAILED, error=" ".join(reason.split()), cause=cause)

    def _ended(
        self,
        *,
        state: str,
        loss: float | None = None,
        loss_se: float | None = None,
        error: str | None = None,
        cause: str | None = None,
    ) -> Outcome:
        points, losses = self._curve.points, self._curve.losses
        return Outcome(
            state=state,
            loss=loss,
            loss_se=loss_se,
            initial_loss=losses[0] if losses else None,
            steps=points[-1]["step"] if points else 0,
            tokens=(self._tokens or 0) if state == DONE else 0,
            seconds=time.monotonic() - self._started,
            error=error,
            cause=cause,
        )


def _files(run: Mapping[str, Any]) -> dict[str, Path]:
    """Arguments of the command that are files below its working directory."""
    folder = Path(run["cwd"]).resolve()
    paths = {argument: folder / argument for argument in run["command"] if "{" not in argument}
    return {
        argument: path for argument, path in paths.items() if path.is_file() and path.resolve().is_relative_to(folder)
    }


def _commit(folder: Path) -> str | None:
    """What is checked out there; None outside of a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


RUNNERS.register("script")(ScriptRunner())
