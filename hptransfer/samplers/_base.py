"""Base classes of sampler configurations.

Samplers that choose values are asked through Optuna's study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.core.errors import ConfigError
from hptransfer.core.registry import Registry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(kw_only=True)
class SamplerConfig(ABC):
    """Settings of one sampler."""

    name: str

    @property
    @abstractmethod
    def points(self) -> int | None:
        """Number of points per scale; None if the sweep's grid lists them."""

    @abstractmethod
    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """Return Optuna's sampler for one study."""


@dataclass(kw_only=True)
class ChoosingSamplerConfig(SamplerConfig):
    """Settings of a sampler that chooses points within the grid's range."""

    trials: int = 10
    """Number of points per scale."""

    @property
    def points(self) -> int | None:
        return self.trials

    def check(self, place: str) -> None:
        if self.trials < 3:
            raise ConfigError(f"{place}.trials must be at least 3 to bracket an optimum, got {self.trials}")


SAMPLERS: Registry[type[SamplerConfig]] = Registry("sampler", "hptransfer.samplers")
