"""A model under a parameterization: its groups for an optimizer, its record for other trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import write_json
from hptransfer.training.optimizers import OptimizerConfig
from hptransfer.training.user_model.groups import group
from hptransfer.training.user_model.initial_values import own_laws, rescale_values
from hptransfer.training.user_model.roles import parameters
from hptransfer.training.user_model.rules import TunedParameter

SCHEMA = 1


@dataclass(kw_only=True)
class Parameterized:
    """What `parameterize` made of a model. Iterating gives parameter groups: `torch.optim.AdamW(parameterized)`.

    Attributes:
        model: as it was given; wrap it as you like, the groups hold the parameters that it has when they are asked for.
        tuned: every parameter's numbers, by name.
        branches: what each residual branch's output is multiplied by, by module; empty without a depth rule.
        waiting: whether first values are still to be rescaled, as the model had none (meta device).
    """

    model: nn.Module
    tuned: dict[str, TunedParameter]
    branches: dict[str, float]
    optimizer: OptimizerConfig
    record: dict[str, Any]
    make_base: Callable[[], nn.Module]
    waiting: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """A group for each set of parameters that train alike, as torch's optimizers take them.

        Beside `params` a group has `lr`, `weight_decay`, what else the optimizer knows (`betas`, `eps`, `momentum`),
        and for the record `role`, `names` and, under `hptransfer`, what it is made for: an optimizer of another kind
        raises ConfigError at its first step. torch's Adam decays weights as AdamW does; of muon, choose groups by role,
        or take `optimizers`.
        """
        for names, one in self._alike():
            yield group(self._present(names), names, self.optimizer, one.item.role, one.settings)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The package's own: one, or for optimizers of matrices alone a second one for the rest."""
        groups = []
        for names, one in self._alike():
            params = self._present(names)
            places = {"params": params, "layers": [None] * len(params), "role": one.item.role, "trial": 0}
            groups.append({**places, **one.settings})
        return self.optimizer.build(groups)

    def rescale_initial_values(self) -> None:
        """For a model that was parameterized on the meta device: call it when its weights have been drawn.

        Not when they come from a checkpoint of a parameterized model.
        """
        items = [one.item for one in self.tuned.values()]
        factors = {name: one.rule.init_std for name, one in self.tuned.items()}
        rescale_values(self.model, own_laws(self.model, items, self.make_base), factors)
        self.waiting = False

    def to_json(self) -> dict[str, Any]:
        """All resolved numbers as plain values, for other trainers (schema: docs/your-model.md)."""
        return {
            "schema": SCHEMA,
            **self.record,
            "branches": self.branches,
            "parameters": [one.to_json() for one in self.tuned.values()],
        }

    def write(self, path: str | Path) -> None:
        """`to_json` into a file.

        Raises:
            ConfigError: the file cannot be written, as its folder is missing.
        """
        try:
            write_json(Path(path), self.to_json())
        except OSError as error:
            raise ConfigError(
                f"write({str(path)!r}) cannot: {error.strerror}; name a file in a folder that can be written"
            ) from None

    def _alike(self) -> Iterator[tuple[list[str], TunedParameter]]:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, one in self.tuned.items():
            groups.setdefault((one.item.role, *sorted(one.settings.items())), []).append(name)
        for names in groups.values():
            yield names, self.tuned[names[0]]

    def _present(self, names: Sequence[str]) -> list[Tensor]:
        """The parameters that the model has now: sharding puts others in their places."""
        present = parameters(self.model)
        if self.waiting and not any(present[name].is_meta for name in names):
            raise ConfigError(
                "the model has been parameterized without values and has values now: call rescale_initial_values(), or "
                "parameterize(..., rescale=False) for those of a checkpoint"
            )
        return [present[name] for name in names]
