"""Parameter groups for torch's optimizers, checked before every step.

An optimizer ignores settings that it does not know and has defaults for those that a group lacks, so a wrong one would
train without an error. Groups therefore name the optimizer that they are made for. A hook of torch's reads it before
any optimizer's step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role
from hptransfer.training.optimizers import OptimizerConfig
from hptransfer.training.optimizers.adamw import AdamSettings
from hptransfer.training.optimizers.muon import MuonConfig
from hptransfer.training.optimizers.sgd import SgdConfig

# Names of the classes, or base classes, of optimizers that may train our groups. Whole names, as SignSGD is another
# optimizer.
CLASS_NAMES = {"adamw": ("AdamW", "Adam"), "sgd": ("SGD",), "lion": ("Lion",), "muon": ("Muon",)}
# Scaling of steps in torch's Muon that fits AdamW's rates.
MUON_SCALE = "match_rms_adamw"
DECOUPLED = "decoupled_weight_decay"
# Key of a group's record of the optimizer that it is made for.
MADE_FOR = "hptransfer"


def torch_group(
    params: Sequence[Tensor],
    names: Sequence[str],
    optimizer: OptimizerConfig,
    role: Role,
    settings: Mapping[str, float],
) -> dict[str, Any]:
    """Return one group for a torch optimizer.

    Raises:
        ConfigError: the optimizer is the package's own.
    """
    if optimizer.name not in CLASS_NAMES:
        raise ConfigError(
            f"optimizer={optimizer.name} is hptransfer's own, and no other optimizer can use its groups: take "
            "parameterized.optimizers(), which builds it, or the numbers of to_json()"
        )
    trainer = "adamw" if optimizer.name == "muon" and role is not Role.HIDDEN else optimizer.name
    values = _torch_settings(optimizer, trainer, settings)
    made_for = {"optimizer": optimizer.name, "trainer": trainer, "settings": list(values)}
    return {"params": list(params), "role": role.value, "names": list(names), MADE_FOR: made_for, **values}


def _torch_settings(optimizer: OptimizerConfig, trainer: str, settings: Mapping[str, float]) -> dict[str, Any]:
    values: dict[str, Any] = {key: value for key, value in settings.items() if key not in ("beta1", "beta2")}
    values["weight_decay"] = optimizer.coupled(dict(settings))
    if "beta2" in settings:
        values["betas"] = (settings["beta1"], settings["beta2"])
    if isinstance(optimizer, SgdConfig):
        values["nesterov"] = optimizer.nesterov
    if isinstance(optimizer, MuonConfig) and trainer == "muon":
        values["adjust_lr_fn"] = MUON_SCALE
    if isinstance(optimizer, AdamSettings) and trainer == "adamw":
        values[DECOUPLED] = True  # torch's Adam reads it, and acts as AdamW then
    return values


def check_optimizer(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> None:
    """Raise ConfigError for an optimizer that a group is not made for."""
    chosen, trainer, settings = (group[MADE_FOR][key] for key in ("optimizer", "trainer", "settings"))
    actual, wanted = type(optimizer).__name__, CLASS_NAMES[trainer][0]
    if not any(parent.__name__ in CLASS_NAMES[trainer] for parent in type(optimizer).__mro__):
        if chosen == "muon":
            raise ConfigError(
                f"optimizer=muon has groups for two optimizers: hidden matrices' for Muon and the rest's for AdamW, "
                f"which are not {actual}'s; take parameterized.optimizers(), or choose groups by their role"
            )
        raise ConfigError(
            f"{actual} was given groups made for {wanted}, by optimizer={chosen}; build {wanted}, or say by optimizer= "
            f"which one you train with; if {actual} steps as {wanted} does, take the key {MADE_FOR!r} out of the groups"
        )
    missing = [key for key in settings if group[key] and key not in optimizer.defaults and key != DECOUPLED]
    if missing:
        raise ConfigError(
            f"{actual} was given groups made for {wanted} and does not know their {', '.join(missing)}, which it would "
            f"leave out; take torch's, or parameterized.optimizers()"
        )
    if trainer == "adamw" and group["weight_decay"] and DECOUPLED not in optimizer.defaults and "AdamW" not in actual:
        raise ConfigError(
            f"{actual} adds weight_decay {group['weight_decay']:g} to a gradient that shrinks with width, so that no "
            "factor keeps the two in proportion; build AdamW, whose decay is separate"
        )


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        if MADE_FOR in group:
            check_optimizer(optimizer, group)


register_optimizer_step_pre_hook(_before_step)
