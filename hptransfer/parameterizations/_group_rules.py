"""Settings of a parameter group, from those of its run.

Training, `export` and the page resolve them by the same `GroupRule`. It is plain data: target.json holds it, so that a
value that is predicted later is resolved without PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.parameterizations._base import Role

Scaling = float | Mapping[str, float]
"""Dependence of a group's setting on the run's value: a factor, or a `memory` or `timescale` by its size."""


def memory(ratio: float) -> Scaling:
    """Return the scaling by which 1 - beta grows with the ratio."""
    return {"memory": ratio}


def timescale(steps: int) -> Scaling:
    """Return the scaling of decay over a share of the run's steps."""
    return {"timescale": steps}


def scaled(value: float, scaling: Scaling) -> float:
    """Return a group's setting from the run's value.

    A changed memory is clipped to [0.5, 0.9999], which no source prescribes. A timescale becomes independent decay; 0
    is none.
    """
    if not isinstance(scaling, Mapping):
        return value * scaling
    ((kind, size),) = scaling.items()
    if kind == "timescale":
        return 1 / (value * size) if value else 0.0
    return value if size == 1.0 else min(max(1 - (1 - value) * size, 0.5), 0.9999)


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """Rule by which a group's numbers follow from its run's settings.

    Attributes:
        settings: scaling of each setting of the optimizer.
        init_std: factor on the base's standard deviation of initial values.
        output_multiplier: factor on the layer's output.
        readout_multiplier: the same for a readout that shares the group's weights, if there is one.
    """

    role: Role
    settings: Mapping[str, Scaling]
    init_std: float
    output_multiplier: float
    readout_multiplier: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GroupRule:
        """Return the rule of plain values."""
        return cls(**{**values, "role": Role(values["role"])})

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "role": self.role.value}

    def resolve(self, optimizer: Mapping[str, float], constants: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return the group's numbers.

        Args:
            optimizer: the run's settings of the optimizer.
            constants: the run's constants by role.

        Returns:
            Settings of the optimizer, of which `lr` is the peak; `init_std`, `output_multiplier` and, where weights are
            shared, `readout_multiplier`.
        """
        own = constants[self.role.value]
        values = {key: scaled(optimizer[key], scaling) for key, scaling in self.settings.items()}
        values["lr"] *= own["lr"]
        values["init_std"] = self.init_std * own["init"]
        values["output_multiplier"] = self.output_multiplier * own["multiplier"]
        if self.readout_multiplier is not None:
            values["readout_multiplier"] = self.readout_multiplier * constants[Role.OUTPUT.value]["multiplier"]
        return values
