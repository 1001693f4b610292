"""Settings of a training script: its command, its costs and its metric."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.command_templates import check_names, names_in
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.formulas import Formula
from hptransfer.core.loader import load
from hptransfer.core.records import DIVERGED, FAILED, Objective

REDUCTIONS = ("last", "minimum", "maximum", "mean")
MISSING = (FAILED, DIVERGED)
LAUNCHES = ("plain", "torchrun")
COST_NAMES = ("params", "flops", "tokens")
RUNTIME_NAMES = ("python", "trial", "trial_dir", "settings", "metrics", "attempt", "seed")
"""Names that every trial has, in addition to its values and costs."""


@dataclass(kw_only=True)
class Metric:
    """Settings of the metric that ranks trials."""

    key: str = "loss"
    """Name of the metric in the lines that the script writes, or of the pattern's group."""
    reduce: str = "last"
    """Reduction of the curve to one number: last, mean of the last `points` points, or the best of all points, which is
    the minimum of a metric to be minimized and the maximum of one to be maximized."""
    points: int = 10
    """Number of points of the curve in the mean."""
    pattern: str | None = None
    """Regular expression for a script that cannot be changed, searched in every printed line. It has the group
    (?P<loss>...) and further ones such as (?P<step>...). Without it the script writes JSON lines or calls
    hptransfer.report."""
    goal: str | None = None
    """minimize or maximize. null minimizes; it is refused for a key such as accuracy, which is usually maximized."""
    unit: str | None = None
    """Unit in which the metric is shown, such as nats; null for none."""
    last_step: Any = None
    """Step that a complete trial reports last: a number, or arithmetic over the names. null: the step that other trials
    of the same scale reached; 0 accepts any step."""
    missing: str = FAILED
    """Outcome of a script that exits with code 0 before its last step, or that never reported its metric: failed or
    diverged."""

    @property
    def objective(self) -> Objective:
        """Objective that the metric is.

        Raises:
            ConfigError: its goal is unknown or has to be given.
        """
        return Objective.of(self.key, self.goal, self.unit, "run.metric.goal")

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
        better = "maximum" if self.objective.maximized else "minimum"
        if self.reduce in ("minimum", "maximum") and self.reduce != better:
            raise ConfigError(
                f"{place}.reduce is {self.reduce}, the worst value of a metric to {self.objective.goal}; the best is "
                f"the {better}"
            )
        if self.missing not in MISSING:
            raise ConfigError(f"{place}.missing: {unknown('outcome', self.missing, MISSING)}")
        if self.reduce not in REDUCTIONS:
            raise ConfigError(f"{place}.reduce: {unknown('reduction', self.reduce, REDUCTIONS)}")
        if self.points < 1:
            raise ConfigError(f"{place}.points must be at least 1, got {self.points}")
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ConfigError(f"{place}.pattern '{self.pattern}' is not a regular expression ({error})") from None
        if self.key not in groups:
            raise ConfigError(
                f"{place}.pattern has no group (?P<{self.key}>...), which {place}.key names; it has "
                f"{', '.join(groups) or 'no named group'}"
            )


@dataclass(kw_only=True)
class ScriptConfig:
    """Settings of a run with run=script."""

    runner: str = "script"
    """Name of the runner."""
    command: list[str]
    """The program and its arguments as a list; no shell reads them. Names in braces are replaced, and {{ is a brace."""
    names: dict[str, Any] = field(default_factory=dict)
    """Values of further names that are not swept. The names under grid and space are added to them."""
    params: Any = None
    """Trainable parameters: arithmetic over the names, or module:function. The function gets the names of its
    parameters."""
    tokens: Any = None
    """Examples or tokens that a trial trains on, in the same form; may be omitted."""
    flops: Any = None
    """Training FLOPs in the same form, which may also use params and tokens; by default 6 * params * tokens."""
    metric: Metric = field(default_factory=Metric)
    launch: str = "plain"
    """plain for the command itself; torchrun for `processes` processes on every node of the trial's allocation."""
    processes: int = 1
    """Under launch=torchrun: processes per node."""
    torchrun: list[str] = field(default_factory=lambda: ["{python}", "-m", "torch.distributed.run"])
    """Command that starts torchrun, with any further options of it."""
    cwd: str = "."
    """Working directory of the script, relative to that of hptransfer."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further environment variables; names in braces are replaced."""
    files: dict[str, str] = field(default_factory=dict)
    """Files that the script reads: a name, and the template relative to cwd. The file is rendered into the trial's
    folder, and its name in braces is its path."""
    timeout_s: float | None = None
    """Seconds after which a running script fails; null for no limit."""
    timeout_factor: float | None = None
    """Limit as a multiple of the longest time that a finished trial of the same scale took, at least half a minute;
    null: such a trial is only warned of."""
    grace_s: float = 30.0
    """Seconds between the signal that asks a script to end and the one that kills it."""
    smoke: Any = None
    """The first trial of a sweep, which runs alone: null for the middle value at the cheapest scale, which counts as a
    trial; values of names for a short one that does not count, such as {steps: 20}; false for none."""

    def check(self) -> None:
        """Raise ConfigError if a value breaks a rule."""
        if not self.command:
            raise ConfigError("run.command must be a list of arguments, such as [python, train.py], got none")
        self._check_names()
        self._check_environment()
        self._check_files()
        known = self.known_names()
        for place, template in self.templates().items():
            check_names(template, known, place)
            if "\0" in template:
                raise ConfigError(f"{place} must not hold the character 0, which ends an argument, got {template!r}")
        self.metric.check("run.metric")
        if self.metric.last_step is not None:
            Formula(str(self.metric.last_step), "run.metric.last_step").check_names(known)
        if self.launch not in LAUNCHES:
            raise ConfigError(f"run.launch: {unknown('choice', self.launch, LAUNCHES)}")
        if self.processes < 1 or (self.processes > 1 and self.launch == "plain"):
            raise ConfigError(f"run.processes must be at least 1, and 1 unless launch=torchrun, got {self.processes}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigError(f"run.timeout_s must be above 0, got {self.timeout_s}; leave it out for no limit")
        if self.timeout_factor is not None and not self.timeout_factor > 1:
            raise ConfigError(
                f"run.timeout_factor must be above 1, got {self.timeout_factor}; leave it out for no limit"
            )
        self._check_smoke()
        if not self.grace_s >= 0:
            raise ConfigError(f"run.grace_s must be at least 0, got {self.grace_s}")
        if not Path(self.cwd).is_dir():
            raise ConfigError(f"run.cwd: there is no folder {self.cwd!r}")

    def _check_environment(self) -> None:
        for name, value in self.environment.items():
            place = f"run.environment.{name}"
            if not str(name).isidentifier() or not str(name).isascii():
                raise ConfigError(f"{place}: {name!r} is not a name of a variable; use letters, digits and _")
            if str(name).startswith("HPTRANSFER_"):
                raise ConfigError(f"{place}: names that begin with HPTRANSFER_ are reserved; use another name")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ConfigError(f"{place} must be text or a number, got {value!r}")

    def _check_files(self) -> None:
        for name, path in self.files.items():
            place = f"run.files.{name}"
            if not str(name).isidentifier() or not str(name).isascii():
                raise ConfigError(f"{place}: {name!r} is not a name; use letters, digits and _")
            if name in {*self.names, *RUNTIME_NAMES, *COST_NAMES}:
                raise ConfigError(f"{place}: {name!r} is a name of a value already; use another name")
            if not isinstance(path, str) or not path or "\0" in path:
                raise ConfigError(f"{place} must be the path of a template, got {path!r}")

    def _check_smoke(self) -> None:
        if self.smoke is None or self.smoke is False:
            return
        if not isinstance(self.smoke, Mapping) or not self.smoke:
            raise ConfigError(
                f"run.smoke takes values of names, such as {{steps: 20}}, or false for none, got {self.smoke!r}"
            )
        for name, value in self.smoke.items():
            if name not in self.names:
                raise ConfigError(f"run.smoke: {unknown('name', str(name), self.names)}")
            if not isinstance(value, int | float | str) or isinstance(value, bool):
                raise ConfigError(f"run.smoke.{name} must be a number or text, got {value!r}")

    def _check_names(self) -> None:
        name_by_variable: dict[str, str] = {}
        for name, value in self.names.items():
            place = f"run.names.{name}"
            if not str(name).isidentifier() or not str(name).isascii():
                raise ConfigError(f"{place}: {name!r} is not a name; use letters, digits and _")
            if name in RUNTIME_NAMES:
                raise ConfigError(f"{place}: {name!r} is the trial's own {name}; use another name")
            if not isinstance(value, int | float | str | None) or isinstance(value, bool):
                raise ConfigError(f"{place} must be a number or text, got {value!r}; quote it if it is text")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{place} must be finite, got {value}; quote it if the script is to read it as text")
            if (earlier := name_by_variable.setdefault(name.upper(), name)) != name:
                raise ConfigError(
                    f"{place}: {earlier!r} is a name too, and both are HPTRANSFER_{name.upper()}; rename one"
                )
        for key in COST_NAMES:
            if key in self.names and getattr(self, key) is not None:
                raise ConfigError(f"run.{key} is given twice, as {key!r} is a name too; leave one of them out")

    @property
    def has_tokens(self) -> bool:
        """True if the training tokens are known."""
        return self.tokens is not None or "tokens" in self.names

    def known_names(self) -> dict[str, None]:
        """Return the names that templates may use, in order."""
        costs = ["params", "flops", *(["tokens"] if self.has_tokens else [])]
        return dict.fromkeys([*self.names, *RUNTIME_NAMES, *costs, *self.files])

    def templates(self) -> dict[str, str]:
        """Return all texts with names in braces, by place."""
        templates = {f"run.command[{index}]": argument for index, argument in enumerate(self.command)}
        templates |= {f"run.torchrun[{index}]": argument for index, argument in enumerate(self.torchrun)}
        return templates | {f"run.environment.{key}": str(value) for key, value in self.environment.items()}

    def read_names(self) -> set[str]:
        """Return the names that appear in the command or the environment."""
        return {name for place, template in self.templates().items() for name in names_in(template, place)}


def script_from_json(run: Mapping[str, Any]) -> ScriptConfig:
    """Return the settings of a script's run from plain values, checked.

    Raises:
        ConfigError: a value breaks a rule.
    """
    config = load(ScriptConfig, run, "run")
    config.check()
    return config
