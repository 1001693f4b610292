"""Rules, settings and multipliers of every parameter from a call's arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import (
    BUDGET_RULES,
    PARAMETERIZATIONS,
    BranchRule,
    BudgetRatio,
    Parameterization,
    Role,
    Sizes,
    TensorRule,
    resolve,
)
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig
from hptransfer.training.user_model.roles import InferredRole

BASE_KEYS = ("width", "depth", "batch_size", "tokens")
# Factors that must be equal for embedding and readout to be one tensor.
TIED_FACTORS = ("init_std", "learning_rate", "epsilon", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class TunedParameter:
    """Parameter with the numbers that it trains with.

    Attributes:
        rule: factors on the base run's values.
        settings: resolved settings of the optimizer; `lr` is the peak.
        multipliers: factor on its matrix in every module that uses it.
    """

    item: InferredRole
    sizes: Sizes
    rule: TensorRule
    settings: dict[str, float]
    multipliers: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        uses = [
            {"module": use.name, "role": role.value, "multiplier": self.multipliers[use.name]}
            for use, role in self.item.uses
        ]
        factors = {key: getattr(self.rule, key) for key in ("init_std", "learning_rate", "epsilon", "weight_decay")}
        return {
            "name": self.item.name,
            "shape": list(self.item.shape),
            "base_shape": list(self.item.base_shape),
            "role": self.item.role.value,
            "sizes": dataclasses.asdict(self.sizes),
            "uses": uses,
            "factors": factors,
            "settings": self.settings,
        }


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules of a call, which determine the numbers of every parameter."""

    table: Parameterization
    optimizer: OptimizerConfig
    alignment: float | None
    branch: BranchRule
    budget: BudgetRatio

    def tuned(self, item: InferredRole, *, inside: bool) -> TunedParameter:
        """Return a parameter with its numbers.

        Args:
            inside: True if the parameter belongs to a residual branch.
        """
        sizes = Sizes.between(item.role, item.fans, item.base_fans, inside=inside, lookup=item.lookup)
        rule = self.rule(item.role, sizes)
        multipliers = {}
        for use, role in item.uses:
            as_used = rule
            if role is not item.role:  # an embedding that is also the readout: its fan-out is the readout's fan-in
                as_used = self.rule(role, Sizes.between(role, item.fans[::-1], item.base_fans[::-1], inside=inside))
                _check_tied(item.name, rule, as_used)
            multipliers[use.name] = as_used.multiplier
        settings = self.optimizer.settings(rule, steps=1)
        return TunedParameter(item=item, sizes=sizes, rule=rule, settings=settings, multipliers=multipliers)

    def rule(self, role: Role, sizes: Sizes) -> TensorRule:
        """Return the rule of a tensor of this role and these sizes."""
        law = self.optimizer.law(role)
        return resolve(self.table, law, role, sizes, alignment=self.alignment, branch=self.branch, budget=self.budget)

    def to_json(self) -> dict[str, Any]:
        """Return the base values and rules of depth, batch and tokens."""
        return {
            "optimizer": dataclasses.asdict(self.optimizer),
            "depth": {"alpha": self.branch.alpha, "ratio": self.branch.ratio},
            "budget": {"rule": self.budget.rule, "batch": self.budget.batch, "tokens": self.budget.tokens},
        }


def base_sizes(base: int | Mapping[str, int]) -> dict[str, int]:
    """Return the base's sizes by key."""
    sizes = dict(base) if isinstance(base, Mapping) else {"width": base}
    for key, value in sizes.items():
        if key not in BASE_KEYS:
            raise ConfigError(f"base: {unknown('size', str(key), BASE_KEYS)}")
        check_whole(f"base[{key!r}]" if isinstance(base, Mapping) else "base", value)
    if "width" not in sizes:
        raise ConfigError(f"base needs the width at which every factor is 1, got {', '.join(sizes) or 'nothing'}")
    return sizes


def check_whole(place: str, value: object) -> None:
    """Raise ConfigError for a value that is not a size."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{place} must be a whole number of at least 1, got {value!r}; give a size such as 128")


def check_globs(place: str, value: object) -> None:
    """Raise ConfigError for a value that is not a list of globs."""
    if isinstance(value, str):
        raise ConfigError(f"{place} must be a list of globs, got {value!r}; write {place}=[{value!r}]")
    if not isinstance(value, Sequence) or not all(isinstance(glob, str) for glob in value):
        raise ConfigError(f"{place} must be a list of globs, got {value!r}; write it as {place}=['blocks.*']")


def checked_roles(roles: Mapping[str, str | Role] | None) -> Mapping[str, str | Role]:
    """Return roles by glob, not yet checked for unknown ones.

    Raises:
        ConfigError: they are not a dictionary by name.
    """
    if roles is not None and not (isinstance(roles, Mapping) and all(isinstance(glob, str) for glob in roles)):
        raise ConfigError(
            f"roles must be a dictionary of roles by glob, got {roles!r}; write it as {{'router.*': 'output'}}"
        )
    return roles or {}


def _check_name(place: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{place} must be a name, got {value!r}; `hptransfer list` shows all names")


def _check_like(place: str, value: object, default: object) -> None:
    """Raise ConfigError for a setting of another type than its default."""
    if isinstance(default, bool | str):
        fits = isinstance(value, type(default))
    else:
        fits = isinstance(value, Real) and not isinstance(value, bool)
    if not fits:
        wanted = {bool: "True or False", str: "a name"}.get(type(default), "a number")
        raise ConfigError(f"{place} must be {wanted}, got {value!r}; its default is {default!r}")


def table_by_name(name: str) -> Parameterization:
    """Return the parameterization of a name.

    Raises:
        ConfigError: the name is unknown, or needs the builtin models.
    """
    _check_name("parameterization", name)
    table = PARAMETERIZATIONS.get(name)
    if table.unit:
        raise ConfigError(
            f"parameterization={name} scales every operation and not only weights. It needs a model that is made of "
            "scaled operations, such as a builtin one; take mup for this model"
        )
    return table


def optimizer_config(name: str, lr: float, settings: Mapping[str, Any], table: Parameterization) -> OptimizerConfig:
    """Return the optimizer's settings in the base run.

    `decay` is the parameterization's if it is default.
    """
    _check_name("optimizer", name)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings must be a dictionary, got {settings!r}; write it as {{'weight_decay': 0.1}}")
    if name == "adam" and settings.get("weight_decay"):
        raise ConfigError(
            f"optimizer=adam with weight_decay {settings['weight_decay']} adds decay to a gradient that shrinks with "
            "width, so that no factor keeps the two in proportion; take adamw, whose decay is separate"
        )
    if name == "kfac":
        raise ConfigError("optimizer=kfac needs layers that record their inputs; take shampoo or muon")
    config = OPTIMIZERS.get("adamw" if name == "adam" else name)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    known = sorted(defaults.keys() - {"name", "lr"})
    _check_like("lr", lr, defaults["lr"])
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"settings: {unknown(f'setting of {name}', str(key), known)}")
        _check_like(f"settings[{key!r}]", value, defaults[key])
    resolved = config(**{"lr": lr, **settings})
    resolved.check("optimizer")
    if resolved.decay == "timescale":
        raise ConfigError(
            "settings: decay=timescale depends on the run's steps, which are not known here; take independent, with a "
            "weight_decay of 1 / (timescale * steps)"
        )
    return dataclasses.replace(resolved, decay=table.decay) if resolved.decay == "default" else resolved


def branch_rule(
    alpha: float, depth: int | None, base: int | None, branches: Sequence[str], blocks: Sequence[str] | None
) -> BranchRule:
    """Return the depth rule of a call.

    Raises:
        ConfigError: an argument is invalid, missing, or of no effect.
    """
    if isinstance(alpha, bool) or alpha not in (0, 0.5, 1):
        raise ConfigError(f"alpha must be 0, 0.5 or 1, got {alpha!r}; 0 turns the depth rule off, 1 is CompleteP's")
    check_globs("branches", branches)
    if blocks is not None:
        check_globs("blocks", blocks)
    if depth is not None:
        check_whole("depth", depth)
    if not alpha:
        depth_arguments = {"depth": depth, "base['depth']": base, "branches": branches or None, "blocks": blocks}
        for key, value in depth_arguments.items():
            if value is not None:
                raise ConfigError(f"{key} ({value}) is for a depth rule; add alpha=0.5 or alpha=1, or leave it out")
        return BranchRule()
    if depth is None or base is None:
        raise ConfigError(
            f"alpha={alpha} scales with the model's depth over the base's: give depth and base={{'width': ..., "
            f"'depth': ...}}, got depth {depth} and base depth {base}"
        )
    if not branches:
        raise ConfigError(
            f"alpha={alpha} multiplies residual branches, which shapes do not show: name the modules whose outputs are "
            "added to the stream by branches=[glob], such as ['blocks.*.attention', 'blocks.*.mlp']"
        )
    return BranchRule(alpha=alpha, ratio=depth / base)


def budget_rule(rule: str, batch_size: int | None, tokens: int | None, base: Mapping[str, int]) -> BudgetRatio:
    """Return the budget rule of a call.

    Raises:
        ConfigError: an argument is invalid, missing, or of no effect.
    """
    _check_name("budget", rule)
    if rule not in BUDGET_RULES:
        raise ConfigError(f"budget: {unknown('budget rule', rule, BUDGET_RULES)}")
    needed = {"none": (), "sqrt": ("batch_size",), "complete": ("batch_size", "tokens")}[rule]
    here = {"batch_size": batch_size, "tokens": tokens}
    ratios = {}
    for key, value in here.items():
        if value is not None:
            check_whole(key, value)
        if key in needed and (value is None or key not in base):
            raise ConfigError(
                f"budget={rule} scales with {key} over base[{key!r}]: {value} over {base.get(key)}; give both"
            )
        if key not in needed and (value is not None or key in base):
            raise ConfigError(f"{key} has no effect under budget={rule}; leave it out, here and in base")
        if value is not None:
            ratios[key] = value / base[key]
    return BudgetRatio(rule=rule, batch=ratios.get("batch_size", 1.0), tokens=ratios.get("tokens", 1.0))


def _check_tied(name: str, embedding: TensorRule, readout: TensorRule) -> None:
    for factor in TIED_FACTORS:
        if abs(getattr(embedding, factor) / getattr(readout, factor) - 1) > 1e-9:
            raise ConfigError(
                f"{name} is tied: this parameterization gives embedding and readout different values of "
                f"{factor}; untie them, or take parameterization=mup, whose readout has a multiplier instead"
            )
