"""Roles of a table's columns: scale, tuned values and loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import LOSS, Objective

SEED = "seed"
# Meanings of a number of steps: an update of the builtin trainer, and a column of a table under that name.
OPTIMIZER_STEP, TABLE_STEP = "optimizer step", "step"
# Columns of predictions.csv besides the scale, and the ends of those of each tuned column NAME.
PREDICTED = (
    *("loss", "loss_low", "loss_high"),
    *("risk_expected", "risk_p90", "risk_expected_percent", "risk_p90_percent", "p_diverge", "extrapolation_octaves"),
)
PREDICTED_OF_TUNED = ("_center", "_low", "_high", "_stable_below", "_outside_tried", "_widened_by")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table by their role.

    Attributes:
        prior: use priors from published studies, inferred from column names; if False, uninformative priors.
        largest: upper limits of tuned columns that have one; predictions are at most that.
        objective: goal and unit of the loss. Losses of a checked table are to be minimized, whatever the goal.
        step: meaning of a number in the column `steps`; blank where it is not known.
    """

    scales: tuple[str, ...]
    tuned: tuple[str, ...]
    loss: str = "loss"
    prior: bool = True
    largest: Mapping[str, float] = field(default_factory=dict)
    objective: Objective = LOSS
    step: str = ""

    def __post_init__(self) -> None:
        for role, names, example in (("scale", self.scales, "width"), ("tuned", self.tuned, "lr")):
            if not any(names) or len(set(names)) < len(names):
                raise ConfigError(
                    f"name at least one {role} column, such as {example}, each once; got {','.join(names)!r}"
                )
        reserved = (*PREDICTED, *(name + end for name in self.tuned for end in PREDICTED_OF_TUNED))
        for name in {*self.scales, *self.tuned} & {*reserved}:
            raise ConfigError(
                f"column {name!r} would occur twice in predictions.csv, which has a column of that name; "
                f"call it something else, such as {name}_, in the table or with --columns {name}_={name}"
            )
        both = {*self.scales} & {*self.tuned, self.loss} | {*self.tuned} & {self.loss}
        if both:
            raise ConfigError(f"column {min(both)!r} cannot be two of scale, tuned and loss; give one of them")

    @property
    def upper(self) -> NDArray[np.float64]:
        """Log2 of the upper limit of each tuned column, (tuned,)."""
        return np.log2([self.largest.get(name, math.inf) for name in self.tuned])

    @property
    def known(self) -> tuple[str, ...]:
        """Names that select the priors, blank without priors."""
        return self.tuned if self.prior else ("",) * len(self.tuned)


def run_columns(target: Mapping[str, Any]) -> Columns:
    """Return the columns of a sweep by its target.json.

    A hyperparameter that is tuned as one minus its value is at most 1.
    """
    largest = dict.fromkeys(target["complement"], 1.0)
    return Columns(
        scales=tuple(target["scales"]),
        tuned=tuple(target["tuned"]),
        largest=largest,
        objective=Objective.of_target(target),
        step="" if "command" in target else OPTIMIZER_STEP,  # a script reports whatever it calls a step
    )
