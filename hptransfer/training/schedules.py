"""Learning-rate schedules: a factor on every group's peak rate, so that group ratios never change."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.core.errors import ConfigError


@dataclass(kw_only=True)
class Schedule:
    """Linear warm-up, then linear decay to zero at the end of the run's own token budget."""

    warmup: float = 0.1
    """Share of the steps that warm up, in [0, 1)."""

    def check(self, place: str) -> None:
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"{place}.warmup must be in [0, 1), a share of the steps, got {self.warmup}")

    def factor(self, step: int, steps: int) -> float:
        """Factor in (0, 1] at a step in [0, steps); the peak is reached where warm-up ends."""
        warm = self.warmup * steps
        if step < warm:
            return (step + 1) / (warm + 1)
        return (steps - step) / (steps - warm)
