"""Parameter groups: one a trial and role, over views into the stack's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hptransfer.parameterizations._base import Role
from hptransfer.parameterizations._rules import Rule
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import tagged


def base_and_factors(run: RunConfig) -> dict[str, Any]:
    """What a run's parameters train with, apart from the parameterization and with it.

    Returns:
        `base`: the optimizer's settings at the base width; `groups`: by role the factors on them,
        on the base width's init standard deviation, and the multiplier of the layer's output.
    """
    base = run.optimizer.group(Rule.unity(Role.FIXED))
    with torch.device("meta"):
        model = run.model.build(trials=1, vocabulary=run.data.vocabulary, sequence=run.sequence)
    rules = run.rules()
    groups = {}
    for role in dict.fromkeys(item.layer.role for item in tagged(model)):
        rule = rules[role]
        factors = {"lr": rule.learning_rate, "eps": rule.epsilon, "weight_decay": rule.weight_decay}
        groups[role.value] = {
            **{key: factors[key] for key in base},
            "init_std": rule.init_std,
            "output_multiplier": rule.multiplier,
        }
    return {"base": base, "groups": groups}


def attach_gradients(model: nn.Module) -> list[torch.Tensor]:
    """Gives every parameter a gradient that stays in place, so that views of it stay valid."""
    gradients = []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return gradients


def stacked_groups(model: nn.Module, runs: Sequence[RunConfig]) -> list[list[dict[str, Any]]]:
    """For each trial of the stack its own parameter groups; `lr` is the peak of the schedule.

    The parameters are 2-D views with gradients that are views too: an ordinary optimizer sees
    ordinary matrices, and no trial's settings touch another's.
    """
    stacks: list[list[dict[str, Any]]] = []
    for index, run in enumerate(runs):
        views: dict[Role, list[torch.Tensor]] = {}
        for item in tagged(model):
            assert item.weight.grad is not None, "attach_gradients first"
            view = item.weight.detach()[index]
            view.grad = item.weight.grad[index]
            views.setdefault(item.layer.role, []).append(view)
        rules = run.rules()
        stacks.append([{"params": views[role], **run.optimizer.group(rules[role])} for role in views])
    return stacks
