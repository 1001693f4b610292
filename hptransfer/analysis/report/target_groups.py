"""Parameter groups of the target with the predicted values, for trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.core.command_templates import fill_template, names_in

# Keys of a group's settings for the constants of a role.
CONSTANTS = {"lr": "lr", "init": "init_std", "multiplier": "output_multiplier"}

BRANCH = "run.branch.multiplier"


def predicted_settings(target: Mapping[str, Any], predicted: Mapping[str, float]) -> dict[str, float]:
    """Return the predicted settings by their path in a run's configuration.

    Args:
        target: content of target.json.
        predicted: value of each tuned hyperparameter.
    """
    return {
        path: 1 - predicted[key] if key in target["complement"] else predicted[key]
        for key, path in target["tuned"].items()
    }


def predicted_command(target: Mapping[str, Any], settings: Mapping[str, float]) -> dict[str, Any]:
    """Return a script's values by name, and its command with them.

    Names that only a trial has stay in braces.

    Args:
        target: content of target.json.
        settings: as predicted, by path.
    """
    names = target["run"]["names"] | {path.rpartition(".")[2]: value for path, value in settings.items()}
    costs = {key: target[key] for key in ("params", "flops") if key not in names}
    template_values = (
        {name: value for template in target["command"] for name, value in _braces(template).items()} | costs | names
    )
    return {"values": names, "command": [fill_template(template, template_values) for template in target["command"]]}


def _braces(template: str) -> dict[str, str]:
    return {name: f"{{{name}}}" for name in names_in(template, "run.command")}


def resolved_branch(target: Mapping[str, Any], settings: Mapping[str, float]) -> float:
    """Return the factor of residual branches under the predicted multiplier."""
    base: float = target["branch_multiplier"]
    return base * settings[BRANCH] / target["run"]["branch"]["multiplier"] if BRANCH in settings else base


def resolved_groups(target: Mapping[str, Any], settings: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the resolved settings of every parameter group of the target.

    Args:
        target: content of target.json: `base` settings and `groups` of factors on them.
        settings: predicted values by path: of settings of the optimizer, or of a role's constants.

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
        elif family == "constants":  # the target's factors include the run's own constant
            constant = target["run"]["constants"][name][setting]
            constants[name, CONSTANTS[setting]] = value / constant
    return {
        group: {
            key: factor * base.get(key, 1.0) * constants.get((group.partition(" ")[0], key), 1.0)
            for key, factor in factors.items()
        }
        for group, factors in target["groups"].items()
    }
