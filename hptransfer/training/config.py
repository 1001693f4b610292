"""One run's configuration: what the builtin trainer needs to know, and nothing about sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.registry import Registry
from hptransfer.parameterizations._base import PARAMETERIZATIONS, Role
from hptransfer.parameterizations._rules import Rule, resolve
from hptransfer.training.datasets._base import DATASETS, DataConfig
from hptransfer.training.models._base import MODELS, ModelConfig
from hptransfer.training.optimizers._base import OPTIMIZERS, OptimizerConfig
from hptransfer.training.schedules import Schedule


@dataclass(kw_only=True)
class Base:
    """The size at which every factor of the parameterization is exactly 1."""

    width: int = 64


@dataclass(kw_only=True)
class RunConfig:
    """A training run. Its members (model, optimizer, data) are chosen by `name`."""

    runner: str = "builtin"
    """What trains the run."""
    parameterization: str = "mup"
    """How init, multipliers, learning rates and epsilon move with width: `hptransfer list`."""
    base: Base = field(default_factory=Base)
    tokens: int = 65536
    """Token budget: training stops, and the schedule ends, when it is spent."""
    batch: int = 4
    """Sequences a step."""
    sequence: int = 64
    """Tokens a sequence."""
    data_seed: int = 0
    """Order of the batches, shared by all trials of a sweep; a trial's own seed draws its weights."""
    validation_windows: int = 256
    """Held-out sequences that the final loss is the mean over."""
    points: int = 32
    """Points of the training curve that are written down, at most."""
    diverged_above: float = 1.5
    """A training loss above this multiple of the first one counts as diverged."""
    model: Any = None
    optimizer: Any = None
    data: Any = None
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def steps(self) -> int:
        """Whole batches in the token budget."""
        return self.tokens // (self.batch * self.sequence)

    def check(self, place: str = "run") -> None:
        """Raises ConfigError for the first value that breaks a rule."""
        for key in ("tokens", "batch", "sequence", "validation_windows", "points"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")
        if self.base.width < 1:
            raise ConfigError(f"{place}.base.width must be at least 1, got {self.base.width}")
        if self.steps < 1:
            raise ConfigError(
                f"{place}.tokens ({self.tokens}) is smaller than one batch of {self.batch * self.sequence} tokens "
                f"({place}.batch {self.batch} x {place}.sequence {self.sequence}); raise it, or make the batch smaller"
            )
        if self.diverged_above <= 1:
            raise ConfigError(f"{place}.diverged_above must be above 1, got {self.diverged_above}")
        PARAMETERIZATIONS.get(self.parameterization)
        self.model.check(f"{place}.model")
        self.optimizer.check(f"{place}.optimizer")
        self.schedule.check(f"{place}.schedule")

    def rules(self) -> dict[Role, Rule]:
        """What the parameterization makes of this run's width, by role."""
        return resolve(
            PARAMETERIZATIONS.get(self.parameterization),
            self.optimizer.law(),
            width=self.model.width,
            base_width=self.base.width,
        )


FAMILIES: Mapping[str, Registry[Any]] = {"model": MODELS, "optimizer": OPTIMIZERS, "data": DATASETS}


def from_json(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that `dataclasses.asdict` turned into plain values.

    Raises:
        ConfigError: a key that the configuration does not have, or a value that breaks a rule.
    """
    nested = {
        "base": _build(Base, values["base"], "run.base"),
        "schedule": _build(Schedule, values["schedule"], "run.schedule"),
        **{key: _build(family.get(values[key]["name"]), values[key], f"run.{key}") for key, family in FAMILIES.items()},
    }
    run: RunConfig = _build(RunConfig, {**values, **nested}, "run")
    run.check()
    return run


def _build(cls: type[Any], values: Mapping[str, Any], place: str) -> Any:
    known = {item.name for item in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{place}: {unknown('key', key, known)}")
    return cls(**values)


__all__ = ["FAMILIES", "Base", "DataConfig", "ModelConfig", "OptimizerConfig", "RunConfig", "from_json"]
