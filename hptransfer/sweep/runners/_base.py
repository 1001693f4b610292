"""The port behind which trials are trained: sizes and checks before, training on a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.core.files import RunFolder
from hptransfer.core.records import Outcome, Trial
from hptransfer.core.registry import Registry

Finish = Callable[[Trial, Outcome], None]
"""Called by a runner as each trial ends, whichever way."""


@dataclass(frozen=True)
class Size:
    """What one run costs: trainable parameters, training FLOPs."""

    params: int
    flops: float


class Runner(ABC):
    """Trains runs of one kind."""

    @abstractmethod
    def size(self, run: Mapping[str, Any]) -> Size:
        """
        Raises:
            ConfigError: the run breaks a rule.
        """

    @abstractmethod
    def fingerprint(self, run: Mapping[str, Any]) -> str:
        """Hash of the data; part of a run folder's identity.

        Raises:
            DataError: there is no such data, or too little.
        """

    @abstractmethod
    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """`base` settings and `groups` of factors on them, for the target's export."""

    @abstractmethod
    def gpus(self) -> int:
        """Devices that it can use; 0 if it trains on the CPU."""

    @abstractmethod
    def stack_size(self, run: Mapping[str, Any]) -> int:
        """Trials of this shape that are best trained together."""

    @abstractmethod
    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        """Training FLOPs a second of one worker at this shape, measured in a few steps.

        None if a step would take too long to be measured in passing.
        """

    @abstractmethod
    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: Finish) -> None:
        """Trains trials of one shape together, appending their curves; calls `finish` for each."""


RUNNERS: Registry[Runner] = Registry("runner", "hptransfer.sweep.runners")
