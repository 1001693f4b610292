"""Parameter groups under the names that torch's optimizers have for settings, and which optimizers may take them.

An optimizer ignores settings that it does not know and has defaults for those that a group lacks, so that the wrong one
would train without a word. Groups therefore say what they are made for, and before any optimizer's step a hook of
torch's reads it.
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

# What an optimizer's class, or one that it comes from, is called that takes the groups of one of ours. By whole names:
# SignSGD is another optimizer.
CALLED = {"adamw": ("AdamW", "Adam"), "sgd": ("SGD",), "lion": ("Lion",), "muon": ("Muon",)}
# How torch's Muon scales its steps so that AdamW's rates fit.
MUON_SCALE = "match_rms_adamw"
DECOUPLED = "decoupled_weight_decay"
# The key of a group under which it says what it is made for.
MADE = "hptransfer"


def group(
    params: Sequence[Tensor],
    names: Sequence[str],
    optimizer: OptimizerConfig,
    role: Role,
    settings: Mapping[str, float],
) -> dict[str, Any]:
    """One group for a torch optimizer.

    Raises:
        ConfigError: the optimizer is the package's own.
    """
    if optimizer.name not in CALLED:
        raise ConfigError(
            f"optimizer={optimizer.name} is the package's own, and no other takes its groups: take "
            "parameterized.optimizers(), which builds it, or the numbers of to_json()"
        )
    trainer = "adamw" if optimizer.name == "muon" and role is not Role.HIDDEN else optimizer.name
    found = _torch_settings(optimizer, trainer, settings)
    made = {"optimizer": optimizer.name, "trainer": trainer, "settings": list(found)}
    return {"params": list(params), "role": role.value, "names": list(names), MADE: made, **found}


def _torch_settings(optimizer: OptimizerConfig, trainer: str, settings: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {key: value for key, value in settings.items() if key not in ("beta1", "beta2")}
    found["weight_decay"] = optimizer.coupled(dict(settings))
    if "beta2" in settings:
        found["betas"] = (settings["beta1"], settings["beta2"])
    if isinstance(optimizer, SgdConfig):
        found["nesterov"] = optimizer.nesterov
    if isinstance(optimizer, MuonConfig) and trainer == "muon":
        found["adjust_lr_fn"] = MUON_SCALE
    if isinstance(optimizer, AdamSettings) and trainer == "adamw":
        found[DECOUPLED] = True  # torch's Adam reads it, and is AdamW then
    return found


def check_taker(taker: torch.optim.Optimizer, group: Mapping[str, Any]) -> None:
    """Raises ConfigError for an optimizer whose steps a group's numbers are not made for."""
    chosen, trainer, settings = (group[MADE][key] for key in ("optimizer", "trainer", "settings"))
    kind, wanted = type(taker).__name__, CALLED[trainer][0]
    if not any(parent.__name__ in CALLED[trainer] for parent in type(taker).__mro__):
        if chosen == "muon":
            raise ConfigError(
                f"optimizer=muon has groups for two optimizers: hidden matrices' for Muon and the rest's for AdamW, "
                f"which are not {kind}'s; take parameterized.optimizers(), or choose groups by their role"
            )
        raise ConfigError(
            f"{kind} was given groups made for {wanted}, by optimizer={chosen}; build {wanted}, or say by optimizer= "
            f"which one you train with; if {kind} steps as {wanted} does, take the key {MADE!r} out of the groups"
        )
    missing = [key for key in settings if group[key] and key not in taker.defaults and key != DECOUPLED]
    if missing:
        raise ConfigError(
            f"{kind} was given groups made for {wanted} and does not know their {', '.join(missing)}, which it would "
            f"leave out; take torch's, or parameterized.optimizers()"
        )
    if trainer == "adamw" and group["weight_decay"] and DECOUPLED not in taker.defaults and "AdamW" not in kind:
        raise ConfigError(
            f"{kind} adds weight_decay {group['weight_decay']:g} to a gradient that shrinks with width, so that no "
            "factor keeps the two in proportion; build AdamW, whose decay stands beside it"
        )


def _before_step(taker: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in taker.param_groups:
        if MADE in group:
            check_taker(taker, group)


register_optimizer_step_pre_hook(_before_step)
