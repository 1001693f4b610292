"""Columns of a table: which hold the scale, the tuned values and the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hptransfer.core.errors import ConfigError

SEED = "seed"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what.

    Attributes:
        prior: whether the names of the tuned columns bring in what published studies found (analysis.known).
        largest: the most that a tuned column can be, where there is such; no answer is above it.
    """

    scales: tuple[str, ...]
    tuned: tuple[str, ...]
    loss: str = "loss"
    prior: bool = True
    largest: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names, such in (("scale", self.scales, "width"), ("tuned", self.tuned, "lr")):
            if not any(names) or len(set(names)) < len(names):
                raise ConfigError(
                    f"name at least one {what} column, such as {such}, each once; got {','.join(names)!r}"
                )
        ours = (
            "loss",
            "loss_low",
            "loss_high",
            "extrapolation_octaves",
            *(name + end for name in self.tuned for end in ("_low", "_high")),
        )
        for name in {*self.scales, *self.tuned} & {*ours}:
            raise ConfigError(
                f"column {name!r} would be there twice in predictions.csv, which has a column of that name; "
                f"call it something else, such as {name}_, in the table or with --columns {name}_={name}"
            )
        both = {*self.scales} & {*self.tuned, self.loss} | {*self.tuned} & {self.loss}
        if both:
            raise ConfigError(f"column {min(both)!r} cannot be two of scale, tuned and loss; give one of them")

    @property
    def upper(self) -> NDArray[np.float64]:
        """log2 of the most that each tuned column can be, (tuned,)."""
        return np.log2([self.largest.get(name, math.inf) for name in self.tuned])

    @property
    def known(self) -> tuple[str, ...]:
        """Names under which something may be known of the tuned columns; blank without a prior."""
        return self.tuned if self.prior else ("",) * len(self.tuned)


def run_columns(target: Mapping[str, Any]) -> Columns:
    """The columns that a sweep declares in its target.json; one minus a momentum is at most 1."""
    largest = dict.fromkeys(target["complement"], 1.0)
    return Columns(scales=tuple(target["scales"]), tuned=tuple(target["tuned"]), largest=largest)
