"""What every tensor of a run trains with: sizes, rules, initial weights, and groups for an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role, Sizes, TensorRule, alignment_of, resolve
from hptransfer.training.config import Constants, RunConfig
from hptransfer.training.layers import Embedding, Layer, Linear, Residual, Scalar, TiedReadout, draw, tagged
from hptransfer.training.unit_scaling import per_trial, scale_operations


@dataclass(frozen=True)
class GroupKey:
    """All that a tensor's rule depends on; `base_fan_in`, its fan-in in the base model, is for its first values."""

    role: Role
    sizes: Sizes
    base_fan_in: int = field(compare=False)


def group_keys(run: RunConfig) -> dict[str, GroupKey]:
    """The kind of every parameter by name, from the model's and the base model's shapes alone."""
    unit = run.table.unit
    with torch.device("meta"):
        model = run.model.build(trials=1, shape=run.shape)
        base = model if unit else run.base_model().build(trials=1, shape=run.shape)
    base_layers = {item.name: item.layer for item in tagged(base)}
    return {
        item.name: _kind(item.layer, None if unit else base_layers[item.name], item.inside) for item in tagged(model)
    }


def _kind(layer: Layer, base: Layer | None, inside: bool) -> GroupKey:
    """Without a base every size is absolute, as if the base's were 1.

    A first layer's fan-in is a size like others then, so that it goes by the rule of hidden ones; an embedding's is 1.
    """
    lookup = isinstance(layer, Embedding)
    role = Role.HIDDEN if layer.role is Role.INPUT and base is None and not lookup else layer.role
    of_base = (base.fan_in, base.fan_out) if base else (1, 1)
    sizes = dataclasses.replace(
        Sizes.between(role, (layer.fan_in, layer.fan_out), of_base, inside=inside, lookup=lookup),
        averaged=layer.averaged / (base.averaged if base else 1),
        spread=layer.spread / (base.spread if base else 1),
    )
    return GroupKey(role, sizes, of_base[0])


def constants(run: RunConfig, role: Role) -> Constants:
    """The user's own factors for a role."""
    found: Constants = getattr(run.constants, role.value)
    return found


def rule(run: RunConfig, kind: GroupKey) -> TensorRule:
    """The rule of one kind of tensor, without the run's own constants."""
    return resolve(
        run.table,
        run.optimizer.law(kind.role),
        kind.role,
        kind.sizes,
        alignment=alignment_of(run.alignment, "run.alignment"),
        branch=run.branch_rule(),
        budget=run.budget_rule(),
    )


def parameterize(model: nn.Module, runs: Sequence[RunConfig], seeds: Sequence[int]) -> None:
    """Sets multipliers and branch factors, and draws initial weights, trial by trial.

    A weight's standard deviation is fan_in^-1/2 in the base model, times its rule and its constant.

    Args:
        runs, seeds: one a trial; the runs' shapes are equal.

    Raises:
        ConfigError: weights are tied that the parameterization treats differently.
    """
    found = group_keys(runs[0])
    for item in tagged(model):
        kind = found[item.name]
        rules = [(rule(run, kind), constants(run, kind.role)) for run in runs]
        item.layer.multiplier = per_trial([one.multiplier * own.multiplier for one, own in rules])
        stds = [initial_std(run, kind) for run in runs]
        draw(item.weight, name=item.name, start=item.layer.start, stds=stds, seeds=seeds)
    for module in model.modules():
        if isinstance(module, TiedReadout):
            module.multiplier = per_trial([_tied(run, module) for run in runs])
        elif isinstance(module, Residual):
            module.factor = per_trial([run.branch_rule().factor * run.branch.multiplier for run in runs])
    if runs[0].table.unit:
        scale_operations(model, [run.unit for run in runs])


def initial_std(run: RunConfig, kind: GroupKey) -> float:
    """Standard deviation of a tensor's first values, if they are drawn at all."""
    std: float = kind.base_fan_in**-0.5 * rule(run, kind).init_std * constants(run, kind.role).init
    return std


def _tied(run: RunConfig, readout: TiedReadout) -> float:
    """Multiplier of a readout that shares the embedding's weights, whose spread at the base is 1."""
    base_fan_in = 1 if run.table.unit else run.base_model().width
    sizes = Sizes.alike(Role.INPUT, readout.fan_in / base_fan_in)
    embedding = rule(run, GroupKey(Role.INPUT, dataclasses.replace(sizes, lookup=True), 1))
    output = resolve_alike(run, Role.OUTPUT, readout.fan_in / base_fan_in)
    for what in ("init_std", "learning_rate"):
        if abs(getattr(embedding, what) / getattr(output, what) - 1) > 1e-9:
            raise ConfigError(
                f"run.model.tied: {run.parameterization} gives embedding and readout another {what}; untie them, or "
                "take run.parameterization=mup, whose readout has a multiplier instead"
            )
    multiplier: float = base_fan_in**-0.5 * output.multiplier * run.constants.output.multiplier
    return multiplier


def resolve_alike(run: RunConfig, role: Role, n: float) -> TensorRule:
    """The rule of a role outside the blocks, all of whose sizes have grown n times."""
    return rule(run, GroupKey(role, Sizes.alike(role, n), 1))


@dataclass
class Group:
    """Tensors of one trial that train with the same settings: parameters' names, views of them, each view's layer."""

    kind: GroupKey
    names: list[str]
    params: list[Tensor]
    layers: list[Layer]


def groups_of(model: nn.Module, found: Mapping[str, GroupKey], trial: int) -> list[Group]:
    """One trial's tensors by kind, as 2-D (or smaller) views, whose gradients `assign_gradients` gives them.

    An ordinary optimizer sees ordinary matrices (a convolution as fan-out by fan-in, every expert by itself), and no
    trial's settings touch another's.
    """
    by_kind: dict[GroupKey, Group] = {}
    for item in tagged(model):
        group = by_kind.setdefault(found[item.name], Group(found[item.name], [], [], []))
        views = item.layer.matrices(item.weight.detach()[trial])
        group.names.append(item.name)
        group.params.extend(views)
        group.layers.extend([item.layer] * len(views))
    return list(by_kind.values())


def assign_gradients(views: Mapping[Layer, Sequence[Sequence[Tensor]]]) -> None:
    """Gives the views that optimizers train their parts of what a backward pass left at the layers' weights.

    Nothing is copied: a gradient that stayed in place would have to be zeroed and added to in every step.

    Args:
        views: each trial's, in order, by layer.
    """
    for layer, views_K in views.items():
        gradient = layer.weight.grad
        if gradient is None:  # the loss does not depend on it
            gradient = torch.zeros_like(layer.weight)
        for own, part in zip(views_K, gradient, strict=True):
            for view, matrix in zip(own, layer.matrices(part), strict=True):
                view.grad = matrix


def settings(run: RunConfig, kind: GroupKey) -> dict[str, float]:
    """What a kind of tensor trains with, in the terms of the run's optimizer; `lr` is the peak."""
    found: dict[str, float] = run.trainer.settings(rule(run, kind), run.steps)
    found["lr"] *= constants(run, kind.role).lr
    return found


def tensors(model: nn.Module, run: RunConfig, found: Mapping[str, GroupKey], trial: int) -> dict[str, dict[str, float]]:
    """What every parameter of one trial has beside its optimizer's settings, as the model has it.

    Returns:
        By name: `init_std`, 0 for weights that all start alike; `output_multiplier`, of what its layer puts out;
        `branch_factor` and `skip_factor` inside a residual branch; `readout_multiplier` of an embedding that is the
        readout too; where operations are scaled, `gradient_multiplier` of the weights' gradient (over the root of the
        rows that it sums) and `backward_multiplier` of the input's, beside the output's.
    """
    branches = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, Residual)}
    numbers = {}
    for item in tagged(model):
        drawn = item.layer.start == "normal"
        own = {
            "init_std": initial_std(run, found[item.name]) if drawn else 0.0,
            "output_multiplier": _of_trial(item.layer.multiplier, trial),
        }
        for prefix, branch in branches.items():
            if item.name.startswith(prefix):
                own["branch_factor"] = _of_trial(branch.factor, trial)
                own["skip_factor"] = _of_trial(branch.skip, trial)
        if item.layer.gradient is not None:
            own["gradient_multiplier"] = _of_trial(item.layer.gradient, trial)
            if isinstance(item.layer, Linear):
                own["backward_multiplier"] = _of_trial(item.layer.backward, trial)
        numbers[item.name] = own
    for module in model.modules():
        if isinstance(module, TiedReadout):
            (name,) = (item.name for item in tagged(model) if item.layer is module.embedding)
            numbers[name]["readout_multiplier"] = _of_trial(module.multiplier, trial)
    return numbers


def _of_trial(scalar: Scalar, trial: int) -> float:
    return float(scalar[trial]) if isinstance(scalar, Tensor) else scalar


def base_and_factors(run: RunConfig) -> dict[str, Any]:
    """What a run's parameters train with, apart from the parameterization and with it.

    Returns:
        `base`: the optimizer's settings in the base run; `groups`: by group the factors on them, on
        the base's init standard deviation, and the multiplier of the layer's output; `branch_multiplier`,
        the factor of residual branches, None where each has its own.
    """
    base: dict[str, float] = {}
    groups = {}
    for name, kind in _named(group_keys(run)):
        found, one, own = settings(run, kind), rule(run, kind), constants(run, kind.role)
        plain = run.trainer.settings(TensorRule(role=kind.role), run.steps)
        base |= plain
        groups[name] = {
            **{key: found[key] / value if value else 1.0 for key, value in plain.items()},
            "init_std": one.init_std * own.init,
            "output_multiplier": one.multiplier * own.multiplier,
        }
    branch = None if run.table.unit else run.branch_rule().factor * run.branch.multiplier
    return {"base": base, "decay": run.trainer.decay, "groups": groups, "branch_multiplier": branch}


def _named(found: Mapping[str, GroupKey]) -> Iterator[tuple[str, GroupKey]]:
    """Kinds with their names: the role; in blocks or not, and a first parameter, where roles have several."""
    firsts: dict[GroupKey, str] = {}
    for name, kind in found.items():
        firsts.setdefault(kind, name)
    roles = [kind.role for kind in firsts]
    for kind, name in firsts.items():
        yield (kind.role.value if roles.count(kind.role) == 1 else f"{kind.role.value} ({name})"), kind
