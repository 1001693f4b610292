"""Learning-rate schedules: one factor on every group's peak rate.

The ratios between groups never change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hptransfer.core.errors import ConfigError, unknown

SCHEDULE_SHAPES = ("constant", "linear", "cosine", "wsd")
# Shares such as 0.9 and 0.1 need not add up to 1 exactly.
ROUNDING = 1e-9


@dataclass(kw_only=True)
class Schedule:
    """Linear warm-up to the peak, then decay over the remaining token budget."""

    shape: str = "linear"
    """Shape after the warm-up: constant; linear or cosine decay; or wsd, constant with a linear decay at the end."""
    warmup: float = 0.1
    """Length of the warm-up, in units of `warmup_in`."""
    warmup_in: str = "fraction"
    """Unit of `warmup`: fraction (of the steps), steps or tokens."""
    end: float = 0.0
    """Final value of the decay as a fraction of the peak, in [0, 1]."""
    floor: float = 0.0
    """Lower limit of the decay: a learning rate at the base, the same for all peaks (Step Law: 1e-5)."""
    decay: float = 0.1
    """Share of the steps in the decay of wsd, in (0, 1]."""

    def check(self, place: str) -> None:
        """Raise ConfigError for the first value that breaks a rule."""
        if self.shape not in SCHEDULE_SHAPES:
            raise ConfigError(f"{place}.shape: {unknown('schedule', self.shape, SCHEDULE_SHAPES)}")
        if self.warmup_in not in ("fraction", "steps", "tokens"):
            raise ConfigError(f"{place}.warmup_in: {unknown('unit', self.warmup_in, ('fraction', 'steps', 'tokens'))}")
        if self.warmup_in == "fraction" and not 0 <= self.warmup < 1:
            raise ConfigError(f"{place}.warmup must be in [0, 1), a share of the steps, got {self.warmup}")
        if not 0 <= self.warmup < math.inf:
            raise ConfigError(f"{place}.warmup must be at least 0 {self.warmup_in}, got {self.warmup}")
        if not 0 <= self.end <= 1:
            raise ConfigError(f"{place}.end must be in [0, 1], a share of the peak, got {self.end}")
        if not 0 <= self.floor < math.inf:
            raise ConfigError(f"{place}.floor must be a learning rate of at least 0, got {self.floor}")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"{place}.decay must be in (0, 1], a share of the steps, got {self.decay}")

    def warmup_steps(self, steps: int, tokens_a_step: int) -> float:
        """Return the steps of warm-up, fewer than `steps`.

        Raises:
            ConfigError: the warm-up is as long as the run, or lasts into the decay of wsd.
        """
        unit = {"fraction": steps, "steps": 1, "tokens": 1 / tokens_a_step}[self.warmup_in]
        if (warm := self.warmup * unit) >= steps:
            raise ConfigError(
                f"run.schedule.warmup ({self.warmup:g} {self.warmup_in}, {warm:g} steps) must be shorter than the run "
                f"of {steps} steps; warm up over a fraction of the steps instead"
            )
        if self.shape == "wsd" and warm + self.decay * steps > steps * (1 + ROUNDING):
            raise ConfigError(
                f"run.schedule.decay ({self.decay:g} of the steps) begins before the warm-up of {warm:g} of {steps} "
                f"steps ends, at run.schedule.warmup {self.warmup:g} {self.warmup_in}; make one of them shorter"
            )
        return warm

    def factor(self, step: int, steps: int, *, warm: float, peak: float) -> float:
        """Return the factor in [0, 1] at a step in [0, steps).

        Args:
            warm: steps of warm-up.
            peak: base learning rate that the floor is compared with.
        """
        if step < warm:
            return (step + 1) / (warm + 1)
        low = min(1.0, max(self.end, self.floor / peak))
        return low + (1 - low) * self._decayed(steps - step, steps, steps - warm)

    def _decayed(self, left: int, steps: int, cold: float) -> float:
        """Return the decay from 1 to 0 with `left` steps left.

        It goes over the `cold` steps after the warm-up.
        """
        if self.shape == "constant":
            return 1.0
        if self.shape == "cosine":
            return 0.5 * (1 - math.cos(math.pi * left / cold))
        if self.shape == "wsd":
            return min(1.0, left / (self.decay * steps))
        return left / cold
