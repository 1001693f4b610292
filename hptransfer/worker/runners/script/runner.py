"""Runner of training scripts: commands with a trial's values as arguments."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.core.command_templates import TemplateValue, fill_template, format_value
from hptransfer.core.errors import ConfigError, DataError, Interrupted
from hptransfer.core.io import is_file, read_json, write_text
from hptransfer.core.records import (
    CODE_ERROR,
    DIVERGED,
    DONE,
    FAILED,
    TIME_LIMIT,
    Objective,
    Outcome,
    Trial,
    short,
)
from hptransfer.core.redaction import read_references, read_values
from hptransfer.core.reporting import RANK_VARIABLES
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS, OnTrialEnd, Runner, RunSchema, Size, StackContext
from hptransfer.worker.runners.script.command_files import command_files, fingerprint_of
from hptransfer.worker.runners.script.command_line import REPORTED, SETTINGS, build_arguments, template_names
from hptransfer.worker.runners.script.config import ScriptConfig, script_from_json
from hptransfer.worker.runners.script.costs import FUNCTION_NOTATION, compute_costs, compute_last_step
from hptransfer.worker.runners.script.curve import (
    DivergedMetric,
    PrintedRows,
    ReportedRows,
    ScriptCurve,
    UnusableMetric,
    missing_metric,
)
from hptransfer.worker.runners.script.files import check_templates, render_files, template_paths
from hptransfer.worker.runners.script.process import Process, ended_by, start_script

POLL_S = 0.1
# Signals by which a scheduler ends a job, and the delay with which its signal may reach the worker after the script.
TERMINATING_SIGNALS = (signal.SIGTERM, signal.SIGKILL)
STOP_CAUSE_WAIT_S = 1.0
# Argument that is the relative path of a program's source.
PROGRAM_PATH = re.compile(r"(?!/)[\w./-]+\.(?:py|sh|R|jl|pl|lua)")
# Settings that are not part of a trial's identity: formulas of its costs, time limits, and the smoke trial's values.
COST_AND_LIMIT_SETTINGS = ("params", "flops", "tokens", "timeout_s", "timeout_factor", "grace_s", "smoke")
# Settings of the metric that change no number of a trial, but how its numbers are read.
READING_SETTINGS = ("goal", "unit", "last_step", "missing")


class ScriptRunner(Runner):
    """Runner of a trial's command."""

    has_source_tree = True
    sweeps_names = True
    can_prune = False
    secret_places = ("run.command", "run.torchrun", "run.environment")

    def schema(self) -> RunSchema:
        return RunSchema(ScriptConfig, {})

    def size(self, run: Mapping[str, Any]) -> Size:
        costs = compute_costs(script_from_json(run))
        return Size(costs.params, costs.flops)

    def plan_imports(self, run: Mapping[str, Any]) -> bool:
        return any(FUNCTION_NOTATION.fullmatch(str(run.get(key))) for key in ("params", "tokens", "flops"))

    def identity_settings(self, run: Mapping[str, Any]) -> dict[str, Any]:
        settings = {key: value for key, value in run.items() if key not in COST_AND_LIMIT_SETTINGS}
        if not settings.get("files"):  # the ids of trials are those of versions without this key
            settings.pop("files", None)
        metric = {key: value for key, value in run.get("metric", {}).items() if key not in READING_SETTINGS}
        return settings | ({"metric": metric} if "metric" in run else {})

    def objective(self, run: Mapping[str, Any]) -> Objective:
        return script_from_json(run).metric.objective

    def missing_state(self, run: Mapping[str, Any]) -> str:
        return script_from_json(run).metric.missing

    def knows_last_step(self, run: Mapping[str, Any]) -> bool:
        return script_from_json(run).metric.last_step is not None

    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        config = script_from_json(run)
        for name, value in config.names.items():
            if value is None and name not in names:
                raise ConfigError(
                    f"run.names.{name} is null, which no command can be given; give it a value, or remove it"
                )
        read = config.read_names()
        in_files = check_templates(config, config.known_names())
        if "settings" in read:
            return
        for name in config.files:
            if name not in read | in_files and "trial_dir" not in read:
                raise ConfigError(
                    f"run.files.{name}: neither run.command nor run.environment has {{{name}}}, so the script would "
                    "not find the file; add it there"
                )
        for name in names:
            if name not in read | in_files:
                raise ConfigError(
                    f"{name!r} is swept, but neither run.command nor run.environment has {{{name}}}"
                    f"{f', nor a template of run.files {{{{ {name} }}}}' if config.files else ''}: the script would "
                    "train the same at every value; add it there, or pass the path {settings} of a JSON file of all"
                )

    def needs_smoke_trial(self, run: Mapping[str, Any]) -> bool:
        return run.get("smoke") is not False

    def command_line(self, trial: Trial, folder: RunFolder) -> str:
        """Return the command with a trial's values, without secrets."""
        config = script_from_json(trial.run)
        names = template_names(config, trial, folder.trial(trial.id).resolve(), attempt=1)
        return shlex.join(build_arguments(config, names, environment={}))

    def may_hang(self, run: Mapping[str, Any]) -> bool:
        return run.get("timeout_s") is None or run.get("timeout_factor") is not None

    def timeout_factor(self, run: Mapping[str, Any]) -> float | None:
        return run.get("timeout_factor")

    def shortened(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return a run with the names of `run.smoke`.

        Its metric may have a single point, at any step.
        """
        names = {**run["names"], **(run.get("smoke") or {})}
        return {**run, "names": names, "metric": {**run["metric"], "points": 1, "last_step": 0}}

    def fingerprint_source(self, run: Mapping[str, Any]) -> str:
        files, templates = command_files(run), run.get("files", {}).values()
        commit = [] if files else ["the commit of run.cwd"]
        contents = ", ".join(dict.fromkeys([*files, *templates]))
        return " and ".join([*commit, *([f"the content of {contents}"] if contents else [])])

    def fingerprint(self, run: Mapping[str, Any]) -> str:
        files = command_files(run)
        return fingerprint_of(files, run)

    def identity_files(self, run: Mapping[str, Any]) -> Mapping[str, Path]:
        return command_files(run) | template_paths(run, Path(run["cwd"]))

    def earlier_fingerprint(self, run: Mapping[str, Any]) -> str:
        """Return the fingerprint without the files of options such as --config=FILE."""
        files = command_files(run)
        return fingerprint_of({argument: path for argument, path in files.items() if argument in run["command"]}, run)

    def check_files(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        directory = folder.working_directory(run["cwd"]).absolute()
        for name, path in template_paths(run, directory).items():
            if not is_file(path):
                raise DataError(
                    f"run.files: there is no file {name!r} in {directory} (snapshot=true copies what git tracks)"
                )
        program = next((word for word in run["command"] if PROGRAM_PATH.fullmatch(word)), None)
        if program is not None and not is_file(directory / program):
            raise DataError(
                f"run.command: there is no file {program!r} in {directory}; correct its name or run.cwd (snapshot=true "
                "copies what git tracks)"
            )

    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return no groups, but the command with the values by their names."""
        command = {"command": list(run["command"])}
        return {"decay": None, "groups": {}, "branch_multiplier": None, **command}

    def gpus(self) -> int:
        """Return the number of NVIDIA GPUs, as listed by their driver.

        No library is loaded for it.
        """
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return len([name for name in visible.split(",") if name and name != "-1"])
        return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))

    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        return 1

    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        return 1

    def note_out_of_memory(self, trials: Sequence[Trial]) -> None:
        """Do nothing: a script is never in a stack."""

    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        """Return None: the rate of a script is not known."""
        return None

    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        for trial in trials:
            if not folder.outcome_path(trial.id).exists():
                print(f"trial {trial.id} {trial.name}", flush=True)
                outcome = _ScriptAttempt(trial, folder, context).run()
                finish(trial, outcome)  # before the log, which may be on a full disk
                result = outcome.error or f"loss {'-' if outcome.loss is None else short(outcome.loss)}"
                print(f"trial {trial.id} {outcome.state} {result}", flush=True)


class _ScriptAttempt:
    """One attempt of a trial's script, from its start to its outcome."""

    def __init__(self, trial: Trial, folder: RunFolder, context: StackContext) -> None:
        self._trial, self._context = trial, context
        self._config = script_from_json(trial.run)
        self._folder = folder.trial(trial.id).resolve()
        self._working_directory = folder.working_directory(self._config.cwd)
        self._tokens = compute_costs(self._config).tokens
        self._settings = self._folder / SETTINGS
        self._limit_path = folder.limit_path(trial.id)
        self._reported_path = self._folder / REPORTED
        self._curve = ScriptCurve(folder.curve_path(trial.id), self._config.metric)
        self._reported = ReportedRows(self._reported_path)
        pattern = self._config.metric.pattern
        self._printed = None if pattern is None else PrintedRows(pattern)
        self._started = time.monotonic()

    def run(self) -> Outcome:
        """Run the script and return its outcome.

        Raises:
            Interrupted: the worker was asked to stop; the script was ended after its grace period.
            Superseded: another attempt has taken over; the script is killed at once.
            OSError: the script's output or its curve cannot be written; the script was ended after its grace period.
        """
        names = template_names(self._config, self._trial, self._folder, self._attempt_number())
        write_text(self._settings, json.dumps(names, indent=1) + "\n")
        try:
            render_files(self._config, self._working_directory, self._folder, names)
            arguments = [read_references(text, "run.command") for text in build_arguments(self._config, names)]
            environment = self._environment(names)
        except ConfigError as missing_variable:
            return self._failed_outcome(str(missing_variable), CODE_ERROR)
        secrets = {value for text in self._config.templates().values() for value in read_values(text)}
        with start_script(arguments, self._working_directory, environment, secrets) as process:
            outcome = self._watch(process)
        if outcome.state != FAILED:
            self._curve.thin()
            self._reported_path.unlink(missing_ok=True)
        return outcome

    def _attempt_number(self) -> int:
        """Return the number of this attempt over all jobs."""
        if not self._settings.exists():
            return self._context.attempt
        return max(self._context.attempt, 1 + int(json.loads(self._settings.read_text(encoding="utf-8"))["attempt"]))

    def _environment(self, names: Mapping[str, TemplateValue]) -> dict[str, str]:
        provided = {f"HPTRANSFER_{name.upper()}": format_value(value) for name, value in names.items()}
        added = {
            key: read_references(fill_template(str(value), names), f"run.environment.{key}")
            for key, value in self._config.environment.items()
        }
        # The worker's own place among processes that were started together is not the script's.
        inherited = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES or value == "0"}
        return {**inherited, **provided, **added}

    def _watch(self, process: Process) -> Outcome:
        grace_s = self._config.grace_s
        try:
            while (code := process.wait(POLL_S)) is None:
                process.check_output()
                self._add_new_rows(process, last=False)
                if cause := self._context.stop():
                    process.stop(grace_s)
                    self._add_new_rows(process, last=False)
                    raise Interrupted(cause)
                if limit := self._exceeded_limit():
                    process.stop(grace_s)
                    return self._failed_outcome(f"it ran longer than {limit}", TIME_LIMIT)
            if code == 0:
                self._add_new_rows(process, last=True)
                return self._done_outcome()
            self._add_readable_rows(process)
            if ended_by(code) in TERMINATING_SIGNALS and (cause := self._wait_for_stop_cause()):
                raise Interrupted(cause)
        except DivergedMetric:
            process.stop(grace_s)
            return self._outcome(state=DIVERGED)
        except UnusableMetric as reason:
            process.stop(grace_s)
            return self._failed_outcome(str(reason), CODE_ERROR)
        except OSError:
            process.stop(grace_s)
            raise
        return self._failed_outcome(*process.failure(code))

    def _wait_for_stop_cause(self) -> str | None:
        """Return the cause of a stop; wait for it briefly.

        A scheduler signals script and worker at once, and the script may be the first to end.
        """
        until = time.monotonic() + STOP_CAUSE_WAIT_S
        while (cause := self._context.stop()) is None and time.monotonic() < until:
            time.sleep(POLL_S)
        return cause

    def _add_new_rows(self, process: Process, *, last: bool) -> None:
        """Add the rows since the last call to the curve.

        Raises:
            UnusableMetric: a row cannot be used, or the script removed files of the trial.
            DivergedMetric: a row reports divergence.
        """
        lines = list(process.new_lines())
        if not (self._folder / "trial.json").exists():
            raise UnusableMetric(
                "the script removed files of its folder HPTRANSFER_TRIAL_DIR, such as trial.json; "
                "let it clear a folder of its own below that one"
            )
        try:
            for row in self._rows(lines, last=last):
                self._curve.add(row)
        finally:
            self._curve.write()

    def _add_readable_rows(self, process: Process) -> None:
        """Add the rows of a script that failed; ignore unusable ones.

        The end of the script is more informative than a line that it did not complete.
        """
        try:
            self._add_new_rows(process, last=False)
        except UnusableMetric:
            return

    def _rows(self, lines: Sequence[str], *, last: bool) -> Iterator[Mapping[str, Any]]:
        return self._reported.rows(last=last) if self._printed is None else self._printed.rows(lines)

    def _exceeded_limit(self) -> str | None:
        """Return the time limit that the script has exceeded, in words."""
        config, ran_s = self._config, time.monotonic() - self._started
        if config.timeout_s is not None and ran_s > config.timeout_s:
            return f"run.timeout_s ({config.timeout_s:g} s)"
        if config.timeout_factor is None or not self._limit_path.exists():
            return None
        limit_s = float(read_json(self._limit_path, "seconds")["seconds"])
        if ran_s <= limit_s:
            return None
        return f"{config.timeout_factor:g} times the longest finished trial of its scale ({limit_s:.0f} s)"

    def _done_outcome(self) -> Outcome:
        metric, last_step = self._config.metric, compute_last_step(self._config)
        if not self._curve.losses:
            unmatched = () if self._printed is None else self._printed.unmatched
            return self._missing_outcome(missing_metric(metric, unmatched))
        step = self._curve.points[-1]["step"]
        if last_step is not None and step < last_step:
            return self._missing_outcome(
                f"it exited with code 0 at step {step}, before run.metric.last_step ({short(last_step)})"
            )
        loss, error = self._curve.final_loss()
        return self._outcome(state=DONE, loss=loss, loss_se=error)

    def _missing_outcome(self, reason: str) -> Outcome:
        """Return the outcome of a script without its result."""
        return self._outcome(state=FAILED).missing_result(self._config.metric.missing, reason)

    def _failed_outcome(self, reason: str, cause: str) -> Outcome:
        return self._outcome(state=FAILED, error=" ".join(reason.split()), cause=cause)

    def _outcome(
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


RUNNERS.register("script")(ScriptRunner())
