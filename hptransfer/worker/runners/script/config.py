"""What a sweep file says of a training script: its command, what it costs, how its metric is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.command_templates import check_names, names_in
from hptransfer.core.errors import ConfigError, unknown

REDUCTIONS = ("last", "minimum", "mean")
LAUNCHES = ("plain", "torchrun")
COSTS = ("params", "flops", "tokens")
RUNTIME = ("python", "trial", "trial_dir", "settings", "metrics", "attempt", "seed")
"""Names that every trial has, beside its own values and costs."""


@dataclass(kw_only=True)
class Metric:
    """What a trial is judged by; the lower, the better."""

    key: str = "loss"
    """Its name in the lines that the script writes, or the name of the pattern's group."""
    reduce: str = "last"
    """last, minimum, or mean: of the last `points` points."""
    points: int = 10
    """Points of the curve that the mean is of."""
    pattern: str | None = None
    """For a script that cannot be changed: a regular expression, searched in every line that it prints, with groups
    (?P<loss>...) and, say, (?P<step>...). Without it the script writes JSON lines or calls hptransfer.report."""

    def check(self, place: str) -> None:
        if self.reduce not in REDUCTIONS:
            raise ConfigError(f"{place}.reduce: {unknown('reduction', self.reduce, REDUCTIONS)}")
        if self.points < 1:
            raise ConfigError(f"{place}.points must be at least 1, got {self.points}")
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ConfigError(f"{place}.pattern {self.pattern!r} is no regular expression ({error})") from None
        if self.key not in groups:
            raise ConfigError(
                f"{place}.pattern has no group (?P<{self.key}>...), which {place}.key names; it has "
                f"{', '.join(groups) or 'no named group'}"
            )


@dataclass(kw_only=True)
class ScriptConfig:
    """A run of anybody's training script."""

    runner: str = "script"
    """What trains the run."""
    command: list[str]
    """The program and its arguments, one by one; no shell reads them. Names in braces are filled in, {{ is a brace."""
    names: dict[str, Any] = field(default_factory=dict)
    """Values of further names, which are not swept; those under grid and space are added to them."""
    params: Any = None
    """Trainable parameters: arithmetic over the names, or module:function, which is given those that it takes."""
    tokens: Any = None
    """Examples or tokens that a trial trains on, likewise; may be left out."""
    flops: Any = None
    """Training FLOPs, likewise, and over params and tokens; without it 6 * params * tokens."""
    metric: Metric = field(default_factory=Metric)
    launch: str = "plain"
    """plain, the command as it is; or torchrun, `processes` times on every node of the trial's allocation."""
    processes: int = 1
    """Under launch=torchrun, on each node."""
    torchrun: list[str] = field(default_factory=lambda: ["{python}", "-m", "torch.distributed.run"])
    """What starts torchrun; its further options go here."""
    cwd: str = "."
    """Where the script runs; relative to where hptransfer does."""
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the environment; names in braces are filled in."""
    timeout_s: float | None = None
    """A script that runs longer has failed."""
    grace_s: float = 30.0
    """Between the signal that asks a script to end and the one that makes it."""

    def check(self) -> None:
        """Raises ConfigError if a value breaks a rule."""
        if not self.command:
            raise ConfigError("run.command must be a list of arguments, such as [python, train.py], got none")
        self._check_names()
        self._check_environment()
        known = dict.fromkeys([*self.names, *RUNTIME, "params", "flops", *(["tokens"] if self.has_tokens else [])])
        for place, template in self.templates().items():
            check_names(template, known, place)
        self.metric.check("run.metric")
        if self.launch not in LAUNCHES:
            raise ConfigError(f"run.launch: {unknown('choice', self.launch, LAUNCHES)}")
        if self.processes < 1 or (self.processes > 1 and self.launch == "plain"):
            raise ConfigError(f"run.processes must be at least 1, and 1 but for launch=torchrun, got {self.processes}")
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
                raise ConfigError(f"{place}: {name!r} is no name of a variable; take letters, digits and _")
            if str(name).startswith("HPTRANSFER_"):
                raise ConfigError(f"{place}: names that begin with HPTRANSFER_ are the tool's own; take another name")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ConfigError(f"{place} must be text or a number, got {value!r}")

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for name, value in self.names.items():
            place = f"run.names.{name}"
            if not str(name).isidentifier() or not str(name).isascii():
                raise ConfigError(f"{place}: {name!r} is no name; take letters, digits and _")
            if name in RUNTIME:
                raise ConfigError(f"{place}: {name!r} is the trial's own {name}; take another name")
            if not isinstance(value, int | float | str | None) or isinstance(value, bool):
                raise ConfigError(f"{place} must be a number or text, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{place} must be finite, got {value}; quote it if the script is to read it as text")
            if (other := taken.setdefault(name.upper(), name)) != name:
                raise ConfigError(
                    f"{place}: {other!r} is a name too, and both are HPTRANSFER_{name.upper()}; rename one"
                )
        for key in COSTS:
            if key in self.names and getattr(self, key) is not None:
                raise ConfigError(f"run.{key} is given twice, as {key!r} is a name too; leave one of them out")

    @property
    def has_tokens(self) -> bool:
        return self.tokens is not None or "tokens" in self.names

    def templates(self) -> dict[str, str]:
        """Everything that names are filled into, by place."""
        found = {f"run.command[{index}]": argument for index, argument in enumerate(self.command)}
        found |= {f"run.torchrun[{index}]": argument for index, argument in enumerate(self.torchrun)}
        return found | {f"run.environment.{key}": str(value) for key, value in self.environment.items()}

    def read_names(self) -> set[str]:
        """Names that the script is given by its command or its environment."""
        return {name for place, template in self.templates().items() for name in names_in(template, place)}


def script_from_json(run: Mapping[str, Any]) -> ScriptConfig:
    """A script's run from plain values, checked.

    Raises:
        ConfigError: a value breaks a rule.
    """
    config = ScriptConfig(**{**run, "metric": Metric(**run["metric"])})
    config.check()
    return config
