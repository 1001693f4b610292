"""Model under a parameterization, with groups and record for trainers."""

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
from hptransfer.training.user_model.initial_values import rescale_values, spread_laws
from hptransfer.training.user_model.roles import parameters
from hptransfer.training.user_model.rules import TunedParameter
from hptransfer.training.user_model.torch_groups import torch_group

RECORD_SCHEMA = 1


@dataclass(kw_only=True)
class Parameterized:
    """Result of `parameterize`; iterating yields parameter groups.

    It can be passed to an optimizer: `torch.optim.AdamW(parameterized)`.

    Attributes:
        model: the given model. It may be wrapped later: groups hold the parameters that it has when they are built.
        tuned: every parameter's numbers, by name.
        branches: factor on each residual branch's output, by module; empty without a depth rule.
        waiting: True if initial values are still to be rescaled, as the model had none (meta device).
    """

    model: nn.Module
    tuned: dict[str, TunedParameter]
    branches: dict[str, float]
    optimizer: OptimizerConfig
    record: dict[str, Any]
    make_base: Callable[[], nn.Module]
    waiting: bool

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield one group for torch's optimizers per set of equal settings.

        In addition to `params` a group has `lr`, `weight_decay` and further settings of the optimizer (`betas`, `eps`,
        `momentum`). For the record it has `role` and `names`. Under `hptransfer` it names its optimizer: another one
        raises ConfigError at its first step. torch's Adam decays weights as AdamW does. For muon, choose groups by
        role, or use `optimizers`.
        """
        for names, parameter in self._alike():
            yield torch_group(self._present(names), names, self.optimizer, parameter.item.role, parameter.settings)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Build hptransfer's own optimizers over all parameters.

        There is one, and a second one for the rest where the first trains only matrices.
        """
        groups = []
        for names, parameter in self._alike():
            params = self._present(names)
            members = {"params": params, "layers": [None] * len(params), "role": parameter.item.role, "trial": 0}
            groups.append({**members, **parameter.settings})
        return self.optimizer.build(groups)

    def rescale_initial_values(self) -> None:
        """Rescale the initial values of a model parameterized on the meta device.

        Call it after the weights have been drawn, but not if they come from a checkpoint of a parameterized model.
        """
        items = [parameter.item for parameter in self.tuned.values()]
        factors = {name: parameter.rule.init_std for name, parameter in self.tuned.items()}
        rescale_values(self.model, spread_laws(self.model, items, self.make_base), factors)
        self.waiting = False

    def to_json(self) -> dict[str, Any]:
        """Return all resolved numbers as plain values, for other trainers.

        Schema: docs/your-model.md.
        """
        return {
            "schema": RECORD_SCHEMA,
            **self.record,
            "branches": self.branches,
            "parameters": [parameter.to_json() for parameter in self.tuned.values()],
        }

    def write(self, path: str | Path) -> None:
        """Write `to_json` to a file.

        Raises:
            ConfigError: the file cannot be written, for example without its folder.
        """
        try:
            write_json(Path(path), self.to_json())
        except OSError as error:
            raise ConfigError(
                f"write({str(path)!r}) failed: {error.strerror}; name a file in a folder that can be written"
            ) from None

    def _alike(self) -> Iterator[tuple[list[str], TunedParameter]]:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, parameter in self.tuned.items():
            groups.setdefault((parameter.item.role, *sorted(parameter.settings.items())), []).append(name)
        for names in groups.values():
            yield names, self.tuned[names[0]]

    def _present(self, names: Sequence[str]) -> list[Tensor]:
        """Return the parameters that the model has now.

        Sharding replaces parameters.
        """
        present = parameters(self.model)
        if self.waiting and not any(present[name].is_meta for name in names):
            raise ConfigError(
                "the model has been parameterized without values and has values now: call rescale_initial_values(), or "
                "parameterize(..., rescale=False) for those of a checkpoint"
            )
        return [present[name] for name in names]
