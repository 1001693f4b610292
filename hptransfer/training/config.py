"""Configuration of one training run, independent of sweeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.loader import load, members_of
from hptransfer.core.registry import Registry
from hptransfer.parameterizations import (
    BUDGET_RULES,
    PARAMETERIZATIONS,
    BranchRule,
    BudgetRatio,
    Parameterization,
    Role,
    alignment_of,
)
from hptransfer.training.datasets import DATASETS, SQUARED, DataConfig, DataShape
from hptransfer.training.models import FLOAT32, MODELS, PRECISIONS, ModelConfig
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig
from hptransfer.training.schedules import Schedule
from hptransfer.training.unit_scaling import UnitConfig, useless_multipliers

LOSSES = ("held-out", "training")
LAST = 0.25


@dataclass(kw_only=True)
class Base:
    """Base run, at which every factor of the parameterization is exactly 1."""

    width: int = 64
    depth: int = 2
    """Used under a depth rule only (run.branch.alpha)."""
    batch: int | None = None
    """Sequences per step; required under a budget rule (run.budget)."""
    tokens: int | None = None
    """Token budget; required under the complete budget rule."""


@dataclass(kw_only=True)
class BranchConfig:
    """Depth rule of residual branches: h + multiplier * m_L^-alpha * F(h).

    m_L is the depth over the base depth.
    """

    alpha: float | None = None
    """0 (no depth rule), 0.5 or 1. Empty: the parameterization's own, which is 0 except for umup."""
    rates: bool = True
    """Scale learning rates in the blocks with depth, so that the stream's change keeps its size."""
    multiplier: float = 1.0
    """Factor of every branch at the base depth; above 0."""

    def check(self, place: str) -> None:
        """Raise ConfigError for the first value that breaks a rule."""
        if self.alpha not in (None, 0, 0.5, 1):
            raise ConfigError(
                f"{place}.alpha must be 0, 0.5 or 1, got {self.alpha:g}; leave it out for the parameterization's own"
            )
        if not 0 < self.multiplier < math.inf:
            raise ConfigError(f"{place}.multiplier must be above 0 and finite, got {self.multiplier}")


@dataclass(kw_only=True)
class Constants:
    """Factors on one role's settings at every size; tunable."""

    lr: float = 1.0
    init: float = 1.0
    """Factor on the initial standard deviation; may be 0."""
    multiplier: float = 1.0


@dataclass(kw_only=True)
class RoleConstants:
    """Constants of every role's tensors (arXiv:2407.05872)."""

    input: Constants = field(default_factory=Constants)
    hidden: Constants = field(default_factory=Constants)
    output: Constants = field(default_factory=Constants)
    vector: Constants = field(default_factory=Constants)
    fixed: Constants = field(default_factory=Constants)

    def check(self, place: str) -> None:
        """Raise ConfigError for the first value that breaks a rule."""
        for role, constants in vars(self).items():
            for key, value in vars(constants).items():
                if not (0 < value < math.inf or (key == "init" and value == 0)):
                    raise ConfigError(f"{place}.{role}.{key} must be above 0 and finite, got {value}")


@dataclass(kw_only=True)
class RunConfig:
    """Settings of a training run.

    Its members (model, optimizer, data) are chosen by `name`.
    """

    runner: str = "builtin"
    """Runner that trains the run."""
    parameterization: str = "mup"
    """Rules by which init, multipliers, learning rates and epsilon scale with width; see `hptransfer list`."""
    alignment: Any = "default"
    """Alignment of updates with a layer's input: full, none, or a measured number from 0.5 to 1. The default is full,
    except for sp, which has one learning rate for all layers."""
    budget: str = "none"
    """Rule that scales rates, betas, epsilon and decay with batch and tokens: none, sqrt (batch only) or complete."""
    base: Base = field(default_factory=Base)
    branch: BranchConfig = field(default_factory=BranchConfig)
    constants: RoleConstants = field(default_factory=RoleConstants)
    unit: UnitConfig = field(default_factory=UnitConfig)
    tokens: int = 65536
    """Token budget; the schedule ends, and training stops, when it is spent."""
    batch: int = 4
    """Sequences per step."""
    sequence: int = 64
    """Tokens per sequence; 1 for data without positions."""
    data_seed: int = 0
    """Seed of the order of batches, shared by all trials of a sweep. A trial's own seed draws its weights."""
    loss: str = "held-out"
    """Loss that a trial is judged by: held-out, after training; or training, the mean over its last steps. Within one
    pass over the data both measure the same, the training loss with less noise."""
    validation_windows: int = 256
    """Sequences over which the held-out loss is averaged."""
    last: float = LAST
    """Share of the steps, at the end, over which the training loss is averaged; above 0, at most 1."""
    points: int = 32
    """Maximum number of points recorded on the training curve."""
    diverged_above: float = 1.5
    """A training loss above this multiple of the first one counts as diverged."""
    precision: str = FLOAT32
    """float32, or bf16 (autocast): matrix products of the forward and backward pass are in bfloat16, also for the
    held-out loss. Weights, their gradients, the optimizer, norms, the residual stream and the loss stay in float32."""
    compile: bool = False
    """Use torch.compile for the forward and backward pass of training steps. Compiling takes tens of seconds per stack,
    and again when a trial leaves it. Numbers change by rounding only, which training near divergence amplifies."""
    cuda_graph: bool = True
    """Record updates on a GPU as a CUDA graph and replay them: the same numbers without launching
    every kernel. Models and optimizers that cannot be recorded train without a graph."""
    activation_checkpointing: bool = False
    """Keep only the inputs of residual branches and recompute the branches in the backward pass: the same numbers with
    less memory, in up to a third more time. A single trial that runs out of GPU memory is retried with it anyway."""
    model: Any = None
    optimizer: Any = None
    data: Any = None
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def tokens_a_step(self) -> int:
        """Tokens of one batch."""
        return self.batch * self.sequence

    @property
    def steps(self) -> int:
        """Number of whole batches in the token budget."""
        return self.tokens // self.tokens_a_step

    @property
    def shape(self) -> DataShape:
        """DataShape of the model's inputs and outputs."""
        shape: DataShape = self.data.shape(self.sequence)
        return shape

    @property
    def table(self) -> Parameterization:
        """Parameterization, as a table of exponents by role."""
        return PARAMETERIZATIONS.get(self.parameterization)

    @property
    def trainer(self) -> OptimizerConfig:
        """Optimizer, with `decay` resolved by the parameterization where it is default."""
        optimizer: OptimizerConfig = self.optimizer
        return dataclasses.replace(optimizer, decay=self.table.decay) if optimizer.decay == "default" else optimizer

    def shared(self) -> dict[str, Any]:
        """Return the settings that trials must share to train as one stack.

        All others are numbers that a stack keeps for each trial.
        """
        values = dataclasses.asdict(self)
        for key in ("schedule", "branch", "constants", "unit"):
            del values[key]
        kept = ("name", "decay", "width_rule", "nesterov")  # the rest goes into each trial's groups
        values["optimizer"] = {key: value for key, value in values["optimizer"].items() if key in kept}
        return values

    def branch_rule(self) -> BranchRule:
        """Return the rule of residual branches at this run's depth."""
        default = self.table.depth if self.model.residual else 0.0
        alpha = default if self.branch.alpha is None else self.branch.alpha
        base = 1 if self.table.unit else self.base.depth
        return BranchRule(alpha=alpha, rates=self.branch.rates, ratio=self.model.depth / base)

    def budget_rule(self) -> BudgetRatio:
        """Return the budget rule at this run's batch and token budget."""
        return BudgetRatio(
            rule=self.budget,
            batch=self.batch / (self.base.batch or self.batch),
            tokens=self.tokens / (self.base.tokens or self.tokens),
        )

    def base_model(self) -> ModelConfig:
        """Return the model at the base width, as deep as this one."""
        model: ModelConfig = dataclasses.replace(self.model, **self.model.base_settings(self.base.width))
        return model

    def check(self, place: str = "run") -> None:
        """Raise ConfigError for the first value that breaks a rule."""
        for key in ("tokens", "batch", "sequence", "validation_windows", "points"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")
        for key, value in vars(self.base).items():
            if value is not None and value < 1:
                raise ConfigError(
                    f"{place}.base.{key} must be at least 1, got {value}; set it to the {key} at which the run's "
                    "settings hold as they are"
                )
        if self.data_seed < 0:
            raise ConfigError(f"{place}.data_seed must be at least 0, got {self.data_seed}")
        if self.steps < 1:
            raise ConfigError(
                f"{place}.tokens ({self.tokens}) is smaller than one batch of {self.tokens_a_step} tokens "
                f"({place}.batch {self.batch} x {place}.sequence {self.sequence}); raise it, or make the batch smaller"
            )
        if self.loss not in LOSSES:
            raise ConfigError(f"{place}.loss: {unknown('loss', self.loss, LOSSES)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"{place}.precision: {unknown('precision', self.precision, PRECISIONS)}")
        if not 0 < self.last <= 1:
            raise ConfigError(f"{place}.last must be above 0 and at most 1, got {self.last}; the default is {LAST}")
        if self.loss == "held-out" and self.last != LAST:
            raise ConfigError(
                f"{place}.last is {self.last}, but {place}.loss=held-out is not a mean over steps; leave it out, or "
                f"take {place}.loss=training"
            )
        if not self.diverged_above > 1:  # NaN is not
            raise ConfigError(f"{place}.diverged_above must be above 1, got {self.diverged_above}")
        alignment_of(self.alignment, f"{place}.alignment")
        self.branch.check(f"{place}.branch")
        self.constants.check(f"{place}.constants")
        self.unit.check(f"{place}.unit")
        self.model.check(f"{place}.model")
        self.optimizer.check(f"{place}.optimizer")
        self.schedule.check(f"{place}.schedule")
        self.schedule.warmup_steps(self.steps, self.tokens_a_step)
        self._check_together(place)

    def _check_together(self, place: str) -> None:
        """Check rules that involve two settings."""
        table = self.table
        if self.shape.kind not in self.model.takes:
            fitting = [name for name in MODELS.names() if self.shape.kind in MODELS.get(name).takes]
            raise ConfigError(
                f"{place}/model={self.model.name} takes {' or '.join(self.model.takes)}, {place}/data={self.data.name} "
                f"has {self.shape.kind}; take {place}/model={' or '.join(fitting)}, or other data"
            )
        self.model.check_shape(f"{place}.model", self.shape)
        if self.branch_rule().alpha and not self.model.residual:
            raise ConfigError(
                f"{place}.branch.alpha is {self.branch_rule().alpha:g}, but {place}/model={self.model.name} has no "
                f"residual branches; set {place}.branch.alpha=0"
            )
        if self.activation_checkpointing and not self.model.residual:
            raise ConfigError(
                f"{place}.activation_checkpointing recomputes residual branches, but {place}/model="
                f"{self.model.name} has none; leave it out"
            )
        if self.compile and self.precision not in self.model.compiles:
            raise ConfigError(
                f"{place}.compile: torch cannot compile {place}/model={self.model.name} in {self.precision}; set "
                f"{place}.precision={' or '.join(self.model.compiles)}, or {place}.compile=false"
            )
        if self.activation_checkpointing and self.compile:
            raise ConfigError(
                f"{place}.activation_checkpointing cannot be combined with {place}.compile, which decides itself "
                "what to recompute; set one of them to false"
            )
        if self.alignment != "default" and table.unit:
            raise ConfigError(f"{place}.alignment: {self.parameterization} sets its own rates; leave it at default")
        self._check_optimizer(place)
        self._check_unit(place)
        if self.budget not in BUDGET_RULES:
            raise ConfigError(f"{place}.budget: {unknown('budget rule', self.budget, BUDGET_RULES)}")
        needed = {"none": (), "sqrt": ("batch",), "complete": ("batch", "tokens")}[self.budget]
        for key in needed:
            if getattr(self.base, key) is None:
                raise ConfigError(
                    f"{place}.budget={self.budget} scales by {place}.base.{key}, which is not set; "
                    f"set it to the {key} at which the run's settings hold as they are"
                )
        if not table.unit:
            try:
                self.base_model().check(f"{place}.model")
            except ConfigError as error:
                raise ConfigError(f"at {place}.base.width: {error}") from None

    def _check_optimizer(self, place: str) -> None:
        laws = self.table.laws

        def fits(optimizer: OptimizerConfig) -> bool:
            return not laws or all(optimizer.law(role) in laws for role in Role)

        if not fits(self.optimizer):
            members: dict[str, Any] = {name: OPTIMIZERS.get(name) for name in OPTIMIZERS.names()}
            fitting = [name for name, member in members.items() if fits(member())]
            raise ConfigError(
                f"{place}.parameterization={self.parameterization} has no rule for {place}/optimizer="
                f"{self.optimizer.name}; take {' or '.join(fitting)}, or {place}.parameterization=mup"
            )

    def _check_unit(self, place: str) -> None:
        """Check multipliers against parameterizations that scale every operation."""
        if not self.table.unit:
            for key, value in self.unit.changed().items():
                raise ConfigError(
                    f"{place}.unit.{key} is {value:g}, but {place}.parameterization={self.parameterization} "
                    f"lacks this multiplier; leave it at 1, or take {place}.parameterization=umup"
                )
            return
        if not self.model.unit:
            raise ConfigError(
                f"{place}.parameterization={self.parameterization} has no numbers for the operations of {place}/model="
                f"{self.model.name}; take {place}.parameterization=mup"
            )
        for key, usual in (("alpha", (None, self.table.depth)), ("multiplier", (1,))):
            if getattr(self.branch, key) not in usual:
                raise ConfigError(
                    f"{place}.branch.{key} is {getattr(self.branch, key):g}, but {place}.parameterization="
                    f"{self.parameterization} weighs residual branches itself; leave it out, and take "
                    f"{place}.unit.residual instead"
                )
        if self.unit.changed():
            with torch.device("meta"):
                model = self.model.build(trials=1, shape=self.shape)
            reasons = useless_multipliers(model, softmax=self.shape.loss != SQUARED)
            for key, value in self.unit.changed().items():
                if key in reasons:
                    raise ConfigError(
                        f"{place}.unit.{key} is {value:g}, but {place}/model={self.model.name} has {reasons[key]}; "
                        "leave it at 1"
                    )


RUN_FAMILIES: Mapping[str, Registry[Any]] = {"model": MODELS, "optimizer": OPTIMIZERS, "data": DATASETS}


def run_from_json(values: Mapping[str, Any]) -> RunConfig:
    """Build a configuration from the plain values of `dataclasses.asdict`.

    Raises:
        ConfigError: a key is unknown, or a value breaks a rule.
    """
    run = load(RunConfig, values, "run", members_of(RUN_FAMILIES, "run"))
    run.check()
    return run


__all__ = [
    "RUN_FAMILIES",
    "Base",
    "BranchConfig",
    "Constants",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RoleConstants",
    "RunConfig",
    "UnitConfig",
    "run_from_json",
]
