"""Parameter groups under the names that torch's optimizers have for settings, and which optimizers may take them.

An optimizer ignores settings that it does not know and has defaults for those that a group lacks, so that the wrong one
trains without a word. Groups that it is given therefore look at it while it is built: as it copies a group's list of
parameters, the caller is `Optimizer.add_param_group`. What it then holds are ordinary lists and dictionaries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import Role
from hptransfer.training.optimizers._base import OptimizerConfig
from hptransfer.training.optimizers.adamw import Adam
from hptransfer.training.optimizers.muon import MuonConfig
from hptransfer.training.optimizers.sgd import SgdConfig

# What the class of an optimizer is called that takes the groups of one of ours.
CALLED = {"adamw": "Adam", "sgd": "SGD", "lion": "Lion", "muon": "Muon"}
# How torch's Muon scales its steps so that AdamW's rates fit.
MUON_SCALE = "match_rms_adamw"
DECOUPLED = "decoupled_weight_decay"


class Params(list[Tensor]):
    """A group's parameters: a list that an optimizer cannot copy unless it was made for it."""

    def __init__(self, params: Sequence[Tensor], chosen: str, trainer: str, settings: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.chosen, self.trainer, self.settings = chosen, trainer, dict(settings)

    def __iter__(self) -> Iterator[Tensor]:
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, torch.optim.Optimizer):
            _check_taker(caller, self.chosen, self.trainer, self.settings)
        return super().__iter__()


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
    chosen = Params(params, optimizer.name, trainer, found)
    return {"params": chosen, "role": role.value, "names": list(names), **found}


def _torch_settings(optimizer: OptimizerConfig, trainer: str, settings: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {key: value for key, value in settings.items() if key not in ("beta1", "beta2")}
    found["weight_decay"] = optimizer.coupled(dict(settings))
    if "beta2" in settings:
        found["betas"] = (settings["beta1"], settings["beta2"])
    if isinstance(optimizer, SgdConfig):
        found["nesterov"] = optimizer.nesterov
    if isinstance(optimizer, MuonConfig) and trainer == "muon":
        found["adjust_lr_fn"] = MUON_SCALE
    if isinstance(optimizer, Adam) and trainer == "adamw":
        found[DECOUPLED] = True  # torch's Adam reads it, and is AdamW then
    return found


def _check_taker(taker: torch.optim.Optimizer, chosen: str, trainer: str, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for an optimizer whose steps the groups' numbers are not made for."""
    kind, wanted = type(taker).__name__, CALLED[trainer]
    known = vars(taker).get("defaults", settings)
    if not any(wanted.lower() in parent.__name__.lower() for parent in type(taker).__mro__):
        if chosen == "muon":
            raise ConfigError(
                f"optimizer=muon has groups for two optimizers: hidden matrices' for Muon and the rest's for AdamW, "
                f"which are not {kind}'s; take parameterized.optimizers(), or choose groups by their role"
            )
        raise ConfigError(
            f"{kind} was given groups made for {wanted}, by optimizer={chosen}, whose rules over width are not its "
            f"own; build {wanted}, or say by optimizer= which one you train with"
        )
    missing = [key for key, value in settings.items() if value and key not in known and key != DECOUPLED]
    if missing:
        raise ConfigError(
            f"{kind} was given groups made for {wanted} and does not know their {', '.join(missing)}, which it would "
            f"leave out; take torch's, or parameterized.optimizers()"
        )
    if trainer == "adamw" and settings["weight_decay"] and DECOUPLED not in known and "AdamW" not in kind:
        raise ConfigError(
            f"{kind} adds weight_decay {settings['weight_decay']:g} to a gradient that shrinks with width, so that no "
            "factor keeps the two in proportion; build AdamW, whose decay stands beside it"
        )
