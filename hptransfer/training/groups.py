"""Sizes, rules, initial weights and optimizer groups of a run's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import GroupRule, Role, Sizes, TensorRule, alignment_of, resolve
from hptransfer.training.config import Constants, RunConfig
from hptransfer.training.layers import Embedding, Layer, Linear, Residual, Scalar, TiedReadout, draw, tagged
from hptransfer.training.unit_scaling import per_trial, scale_operations


@dataclass(frozen=True)
class GroupKey:
    """Key of tensors that share one rule.

    Attributes:
        base_fan_in: fan-in in the base model, for initial values.
    """

    role: Role
    sizes: Sizes
    base_fan_in: int = field(compare=False)


def group_keys(run: RunConfig) -> dict[str, GroupKey]:
    """Return every parameter's group key, from the two models' shapes alone.

    The models are the run's and its base.
    """
    unit = run.table.unit
    with torch.device("meta"):
        model = run.model.build(trials=1, shape=run.shape)
        base = model if unit else run.base_model().build(trials=1, shape=run.shape)
    base_layers = {item.name: item.layer for item in tagged(base)}
    return {
        item.name: _group_key(item.layer, None if unit else base_layers[item.name], item.inside)
        for item in tagged(model)
    }


def _group_key(layer: Layer, base: Layer | None, inside: bool) -> GroupKey:
    """Return a layer's group key, with absolute sizes without a base.

    Sizes are then those over a base of 1. A first layer's fan-in is a size like others, so that it follows the rule of
    hidden layers; an embedding's fan-in is 1.
    """
    lookup = isinstance(layer, Embedding)
    role = Role.HIDDEN if layer.role is Role.INPUT and base is None and not lookup else layer.role
    base_fans = (base.fan_in, base.fan_out) if base else (1, 1)
    sizes = dataclasses.replace(
        Sizes.between(role, (layer.fan_in, layer.fan_out), base_fans, inside=inside, lookup=lookup),
        averaged=layer.averaged / (base.averaged if base else 1),
        spread=layer.spread / (base.spread if base else 1),
    )
    return GroupKey(role, sizes, base_fans[0])


def constants(run: RunConfig, role: Role) -> Constants:
    """Return the user's factors for a role."""
    factors: Constants = getattr(run.constants, role.value)
    return factors


def rule(run: RunConfig, key: GroupKey) -> TensorRule:
    """Return the rule of a group key's tensors, without the run's constants."""
    return resolve(
        run.table,
        run.optimizer.law(key.role),
        key.role,
        key.sizes,
        alignment=alignment_of(run.alignment, "run.alignment"),
        branch=run.branch_rule(),
        budget=run.budget_rule(),
    )


def parameterize_stack(model: nn.Module, runs: Sequence[RunConfig], seeds: Sequence[int]) -> None:
    """Set multipliers and branch factors and draw initial weights, by trial.

    A weight's standard deviation is fan_in^-1/2 in the base model, times its rule and its constant.

    Args:
        runs, seeds: one per trial; the runs' shapes are equal.

    Raises:
        ConfigError: weights are tied that the parameterization treats differently.
    """
    keys = group_keys(runs[0])
    for item in tagged(model):
        key = keys[item.name]
        item.layer.multiplier = per_trial(
            [_resolve_group(run, group_rule(run, key))["output_multiplier"] for run in runs]
        )
        stds = [initial_std(run, key) for run in runs]
        draw(item.weight, name=item.name, start=item.layer.start, stds=stds, seeds=seeds)
    for module in model.modules():
        if isinstance(module, TiedReadout):
            module.multiplier = per_trial([_tied_multiplier(run, module) for run in runs])
        elif isinstance(module, Residual):
            module.factor = per_trial([run.branch_rule().factor * run.branch.multiplier for run in runs])
    if runs[0].table.unit:
        scale_operations(model, [run.unit for run in runs])


def initial_std(run: RunConfig, key: GroupKey) -> float:
    """Return the standard deviation of a tensor's initial values, if drawn."""
    std: float = key.base_fan_in**-0.5 * rule(run, key).init_std * constants(run, key.role).init
    return std


def _tied_multiplier(run: RunConfig, readout: TiedReadout) -> float:
    """Return the multiplier of a readout that shares the embedding's weights.

    The spread of these weights at the base is 1.
    """
    multiplier: float = _base_width(run) ** -0.5 * _tied_rule(run, readout).multiplier
    return multiplier * run.constants.output.multiplier


def _tied_rule(run: RunConfig, readout: TiedReadout) -> TensorRule:
    """Return the rule of a readout that shares the embedding's weights.

    Raises:
        ConfigError: the parameterization treats embedding and readout differently.
    """
    growth = readout.fan_in / _base_width(run)
    embedding = rule(run, GroupKey(Role.INPUT, dataclasses.replace(Sizes.alike(Role.INPUT, growth), lookup=True), 1))
    output = resolve_alike(run, Role.OUTPUT, growth)
    for factor in ("init_std", "learning_rate"):
        if abs(getattr(embedding, factor) / getattr(output, factor) - 1) > 1e-9:
            raise ConfigError(
                f"run.model.tied: {run.parameterization} gives embedding and readout different values of "
                f"{factor}; untie them, or take run.parameterization=mup, whose readout has a multiplier instead"
            )
    return output


def _base_width(run: RunConfig) -> int:
    return 1 if run.table.unit else run.base_model().width


def resolve_alike(run: RunConfig, role: Role, n: float) -> TensorRule:
    """Return a role's rule outside the blocks, all sizes grown n times."""
    return rule(run, GroupKey(role, Sizes.alike(role, n), 1))


@dataclass
class Group:
    """Tensors of one trial that train with the same settings.

    Attributes:
        names: names of the parameters.
        params: views of the parameters.
        layers: layer of each view.
    """

    key: GroupKey
    names: list[str]
    params: list[Tensor]
    layers: list[Layer]


def groups_of(model: nn.Module, keys: Mapping[str, GroupKey], trial: int) -> list[Group]:
    """Return one trial's tensors by group key, as views.

    Views have at most two dimensions; `assign_gradients` sets their gradients. An ordinary optimizer sees ordinary
    matrices (a convolution as fan-out by fan-in, every expert by itself), and no trial's settings affect another's.
    """
    by_key: dict[GroupKey, Group] = {}
    for item in tagged(model):
        group = by_key.setdefault(keys[item.name], Group(keys[item.name], [], [], []))
        views = item.layer.matrices(item.weight.detach()[trial])
        group.names.append(item.name)
        group.params.extend(views)
        group.layers.extend([item.layer] * len(views))
    return list(by_key.values())


def assign_gradients(views: Mapping[Layer, Sequence[Sequence[Tensor]]]) -> None:
    """Assign the gradients of the layers' weights to the optimizers' views.

    Nothing is copied: a gradient that stayed in place would have to be zeroed and added to in every step.

    Args:
        views: views of each trial, in order, by layer.
    """
    for layer, views_K in views.items():
        gradient = layer.weight.grad
        if gradient is None:  # the loss does not depend on it
            gradient = torch.zeros_like(layer.weight)
        for trial_views, part in zip(views_K, gradient, strict=True):
            for view, matrix in zip(trial_views, layer.matrices(part), strict=True):
                view.grad = matrix


def group_settings(run: RunConfig, key: GroupKey) -> dict[str, float]:
    """Return the optimizer's settings of a group; `lr` is the peak."""
    group = group_rule(run, key)
    values = _resolve_group(run, group)
    return {setting: values[setting] for setting in group.settings}


def group_rule(run: RunConfig, key: GroupKey) -> GroupRule:
    """Return a group's rule, without the run's settings and constants."""
    factors = rule(run, key)
    return GroupRule(
        role=key.role,
        settings=run.trainer.scalings(factors, run.steps),
        init_std=factors.init_std,
        output_multiplier=factors.multiplier,
    )


def _resolve_group(run: RunConfig, group: GroupRule) -> dict[str, float]:
    return group.resolve(vars(run.optimizer), {role: vars(factors) for role, factors in vars(run.constants).items()})


def tensor_numbers(
    model: nn.Module, run: RunConfig, keys: Mapping[str, GroupKey], trial: int
) -> dict[str, dict[str, float]]:
    """Return the numbers of one trial's parameters that optimizers do not hold.

    Returns:
        Numbers by parameter. `init_std` is 0 for weights that all start alike. `output_multiplier` is that of the
        layer's output. Parameters inside a residual branch have `branch_factor` and `skip_factor`, an embedding that is
        also the readout has `readout_multiplier`. Where operations are scaled there are `gradient_multiplier` of the
        weights' gradient (over the root of the rows that it sums) and `backward_multiplier` of the input's gradient, in
        addition to the output's.
    """
    branches = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, Residual)}
    numbers = {}
    for item in tagged(model):
        drawn = item.layer.start == "normal"
        of_parameter = {
            "init_std": initial_std(run, keys[item.name]) if drawn else 0.0,
            "output_multiplier": _of_trial(item.layer.multiplier, trial),
        }
        for prefix, branch in branches.items():
            if item.name.startswith(prefix):
                of_parameter["branch_factor"] = _of_trial(branch.factor, trial)
                of_parameter["skip_factor"] = _of_trial(branch.skip, trial)
        if item.layer.gradient is not None:
            of_parameter["gradient_multiplier"] = _of_trial(item.layer.gradient, trial)
            if isinstance(item.layer, Linear):
                of_parameter["backward_multiplier"] = _of_trial(item.layer.backward, trial)
        numbers[item.name] = of_parameter
    for module in model.modules():
        if isinstance(module, TiedReadout):
            (name,) = (item.name for item in tagged(model) if item.layer is module.embedding)
            numbers[name]["readout_multiplier"] = _of_trial(module.multiplier, trial)
    return numbers


def _of_trial(scalar: Scalar, trial: int) -> float:
    return float(scalar[trial]) if isinstance(scalar, Tensor) else scalar


def group_rules(run: RunConfig) -> dict[str, Any]:
    """Return the rules of a run's parameter groups, as plain values.

    Returns:
        `decay`: the kind of weight decay. `groups`: rules by group (`GroupRule`). `branch_multiplier`: the factor of
        residual branches, None where each has its own.
    """
    with torch.device("meta"):
        model = run.model.build(trials=1, shape=run.shape)
    readouts = [module for module in model.modules() if isinstance(module, TiedReadout)]
    tied = {item.name: module for module in readouts for item in tagged(model) if item.layer is module.embedding}
    groups = {}
    for name, key, parameters in _named(group_keys(run)):
        group = group_rule(run, key)
        for readout in (tied[parameter] for parameter in parameters if parameter in tied):
            group = dataclasses.replace(group, readout_multiplier=_tied_rule(run, readout).multiplier)
        groups[name] = group.to_json()
    branch = None if run.table.unit else run.branch_rule().factor * run.branch.multiplier
    return {"decay": run.trainer.decay, "groups": groups, "branch_multiplier": branch}


def _named(keys: Mapping[str, GroupKey]) -> Iterator[tuple[str, GroupKey, list[str]]]:
    """Yield names of groups with their keys and parameters.

    The name is the role. Where a role has several keys, each name also holds the key's first parameter.
    """
    parameters: dict[GroupKey, list[str]] = {}
    for parameter, key in keys.items():
        parameters.setdefault(key, []).append(parameter)
    roles = [key.role for key in parameters]
    for key, names in parameters.items():
        yield key.role.value if roles.count(key.role) == 1 else f"{key.role.value} ({names[0]})", key, names
