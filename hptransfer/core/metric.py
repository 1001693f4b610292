"""Objective of a sweep: the metric that ranks trials, its goal and its unit.

Trials, tables and figures show the metric with its own sign. Comparisons and fits minimize, so a metric to be maximized
is negated by `minimized` as it is read, and by `shown` before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError, unknown

MINIMIZE, MAXIMIZE = "minimize", "maximize"
GOALS = (MINIMIZE, MAXIMIZE)
NATS = "nats"
# Words in the names of metrics that are usually maximized.
MAXIMIZED_WORDS = frozenset(
    (
        *("acc", "accuracy", "auc", "auroc", "bleu", "f1", "iou", "psnr", "recall", "return", "returns", "reward"),
        *("rewards", "rouge", "score", "scores", "ssim"),
    )
)
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+")
LOG_ESTIMATORS = ("geometric_mean", "nested")
"""Estimators that are defined by the logarithm or by ratios of a loss, which must be above 0."""


@dataclass(frozen=True)
class Objective:
    """Name, goal and unit of the metric that ranks trials.

    Attributes:
        unit: such as nats; blank for a metric without one.
    """

    name: str = "loss"
    goal: str = MINIMIZE
    unit: str = ""

    @classmethod
    def of(cls, name: str, goal: str | None, unit: str | None, place: str) -> Objective:
        """Return an objective, with the goal to minimize if none is given.

        Args:
            place: of the goal, for messages.

        Raises:
            ConfigError: the goal is unknown, or it is not given and the name is that of a metric to be maximized.
        """
        if goal is not None and goal not in GOALS:
            raise ConfigError(f"{place}: {unknown('goal', goal, GOALS)}")
        if goal is None and MAXIMIZED_WORDS & {word.lower() for word in _WORDS.findall(name)}:
            raise ConfigError(
                f"{place} must be given for a metric named {name!r}, which is usually maximized; give {MAXIMIZE} or "
                f"{MINIMIZE}"
            )
        return cls(name, goal or MINIMIZE, unit or "")

    @classmethod
    def of_target(cls, target: Mapping[str, Any]) -> Objective:
        """Return the objective that a target.json holds.

        Earlier versions minimized every metric. They wrote no unit: it is nats, unless the trials run a script.
        """
        if "metric" in target:
            return cls(**target["metric"])
        return cls(unit="" if "command" in target else NATS)

    @property
    def maximized(self) -> bool:
        """True if larger values are better."""
        return self.goal == MAXIMIZE

    def minimized(self, value: float) -> float:
        """Return a value of the metric as a number to be minimized."""
        return -value if self.maximized else value

    shown = minimized
    """Return a minimized number as a value of the metric."""

    @property
    def label(self) -> str:
        """Name and unit, such as "loss, nats"."""
        return self.with_unit(self.name + ",") if self.unit else self.name

    def with_unit(self, text: str) -> str:
        """Return a number's text with the unit behind it."""
        return f"{text} {self.unit}" if self.unit else text


LOSS = Objective()
"""A loss without a unit."""
