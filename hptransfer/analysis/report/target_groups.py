"""Parameter groups of the target with the predicted values, for trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.core.command_templates import fill_template, names_in
from hptransfer.core.records import with_path
from hptransfer.parameterizations import GroupRule

BRANCH = "run.branch.multiplier"

# Numbers of a group that are factors on the base's.
FACTOR_KEYS = ("init_std", "output_multiplier", "readout_multiplier")


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


def has_group_rules(target: Mapping[str, Any]) -> bool:
    """Test if target.json has the rules of groups; version 0.1 wrote factors."""
    return all("settings" in group for group in target["groups"].values())


def resolved_groups(target: Mapping[str, Any], settings: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the numbers of every parameter group of the target.

    Args:
        target: content of target.json, with rules of groups.
        settings: predicted values by path.

    Returns:
        By group: the settings, the factor on the base init's standard deviation, and the multiplier of the layer's
        output.
    """
    tree: dict[str, Any] = {"run": target["run"]}
    for path, value in settings.items():
        tree = with_path(tree, path, value)
    return {
        name: GroupRule.from_json(group).resolve(tree["run"]["optimizer"], tree["run"]["constants"])
        for name, group in target["groups"].items()
    }
