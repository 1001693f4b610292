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
from hptransfer.core.loader import load

REDUCTIONS = ("last", "minimum", "mean")
LAUNCHES = ("plain", "torchrun")
COST_NAMES = ("params", "flops", "tokens")
RUNTIME_NAMES = ("python", "trial", "trial_dir", "settings", "metrics", "attempt", "seed")
"""Names that every trial has, in addition to its values and costs."""


@dataclass(kw_only=True)
class Metric:
    """Settings of the metric that is minimized."""

    key: str = "loss"
    """Name of the metric in the lines that the script writes, or of the pattern's group."""
    reduce: str = "last"
    """Reduction of the curve to one number: last, minimum, or mean of the last `points` points."""
    points: int = 10
    """Number of points of the curve in the mean."""
    pattern: str | None = None
    """Regular expression for a script that cannot be changed, searched in every printed line. It has the group
    (?P<loss>...) and further ones such as (?P<step>...). Without it the script writes JSON lines or calls
    hptransfer.report."""

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
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
    timeout_s: float | None = None
    """Seconds after which a running script fails; null for no limit."""
    grace_s: float = 30.0
    """Seconds between the signal that asks a script to end and the one that kills it."""

    def check(self) -> None:
        """Raise ConfigError if a value breaks a rule."""
        if not self.command:
            raise ConfigError("run.command must be a list of arguments, such as [python, train.py], got none")
        self._check_names()
        self._check_environment()
        known = dict.fromkeys(
            [*self.names, *RUNTIME_NAMES, "params", "flops", *(["tokens"] if self.has_tokens else [])]
        )
        for place, template in self.templates().items():
            check_names(template, known, place)
            if "\0" in template:
                raise ConfigError(f"{place} must not hold the character 0, which ends an argument, got {template!r}")
        self.metric.check("run.metric")
        if self.launch not in LAUNCHES:
            raise ConfigError(f"run.launch: {unknown('choice', self.launch, LAUNCHES)}")
        if self.processes < 1 or (self.processes > 1 and self.launch == "plain"):
            raise ConfigError(f"run.processes must be at least 1, and 1 unless launch=torchrun, got {self.processes}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigError(f"run.timeout_s must be above 0, got {self.timeout_s}; leave it out for no limit")
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
