"""The target's parameter groups with the predicted values filled in: what a trainer's configuration needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.core.command_templates import fill_template, names_in

# What the constants of a role are called among a group's settings.
CONSTANTS = {"lr": "lr", "init": "init_std", "multiplier": "output_multiplier"}

BRANCH = "run.branch.multiplier"


def predicted_settings(target: Mapping[str, Any], predicted: Mapping[str, float]) -> dict[str, float]:
    """What the predicted values set, by the path of the setting in a run's configuration.

    Args:
        target: content of target.json.
        predicted: value of each tuned hyperparameter.
    """
    return {
        path: 1 - predicted[key] if key in target["complement"] else predicted[key]
        for key, path in target["tuned"].items()
    }


def predicted_command(target: Mapping[str, Any], settings: Mapping[str, float]) -> dict[str, Any]:
    """A script's values by their names, and its command with them; what only a trial has stays in braces.

    Args:
        target: content of target.json.
        settings: as predicted, by path.
    """
    names = target["run"]["names"] | {path.rpartition(".")[2]: value for path, value in settings.items()}
    costs = {key: target[key] for key in ("params", "flops") if key not in names}
    known = {name: value for template in target["command"] for name, value in _braces(template).items()} | costs | names
    return {"values": names, "command": [fill_template(template, known) for template in target["command"]]}


def _braces(template: str) -> dict[str, str]:
    return {name: f"{{{name}}}" for name in names_in(template, "run.command")}


def resolved_branch(target: Mapping[str, Any], settings: Mapping[str, float]) -> float:
    """The factor of residual branches, its base multiplier being as predicted."""
    own: float = target["branch_multiplier"]
    return own * settings[BRANCH] / target["run"]["branch"]["multiplier"] if BRANCH in settings else own


def resolved_groups(target: Mapping[str, Any], settings: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What every parameter group of the target trains with.

    Args:
        target: content of target.json: `base` settings and `groups` of factors on them.
        settings: as predicted, by path: of the optimizer's settings, or a constant of a role.

    Returns:
        By role: the settings, the factor on the base init's standard deviation, and the multiplier
        of the layer's output.
    """
    base = dict(target["base"])
    constants: dict[tuple[str, str], float] = {}
    for path, value in settings.items():
        *_, family, name, setting = path.split(".")
        if (family, name) == ("run", "optimizer"):
            base[setting] = value
        elif family == "constants":  # the target's factors have the run's own constant in them
            own = target["run"]["constants"][name][setting]
            constants[name, CONSTANTS[setting]] = value / own
    return {
        group: {
            key: factor * base.get(key, 1.0) * constants.get((group.partition(" ")[0], key), 1.0)
            for key, factor in factors.items()
        }
        for group, factors in target["groups"].items()
    }
