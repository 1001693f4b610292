"""The port of an estimator: from runs to what they say of each scale's optimum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.statistics.linear_model import LinearLaw, OptimaLikelihood
from hptransfer.analysis.tables.arrays import Array, Runs
from hptransfer.core.registry import Registry


@dataclass(frozen=True, eq=False)
class OptimaEstimate:
    """What one form of an estimator found.

    Attributes:
        told: of all optima together, scale by scale.
        curvature: second derivative of the log loss at each scale's optimum, halved, (scales, tuned, tuned).
        intercepts: log loss at each scale's optimum; NaN where it is not known.
        noise: standard deviation of a run's log loss about what was fitted; NaN where nothing was.
        surface: if it fitted one.
    """

    told: OptimaLikelihood
    curvature: Array
    intercepts: Array
    noise: float
    surface: ResponseSurface | None = None


class Estimator(ABC):
    """Finds optima."""

    @property
    @abstractmethod
    def published(self) -> bool:
        """Whether the law through the optima is plain least squares, as the study has it, without priors."""

    @abstractmethod
    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        """
        Args:
            law: a power law that may keep scales with few runs near the others.

        Returns:
            One or more forms, each as good as the next.
        """


ESTIMATORS: Registry[Estimator] = Registry("estimator", "hptransfer.analysis.optima.estimators")

# A published estimator gives a point and no error: all scales count alike.
ALIKE_OCTAVES = 0.1


class ByScale(Estimator):
    """A published estimator: each scale's optimum by its own runs that did not diverge."""

    published = True

    @abstractmethod
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        """log2 of a scale's optimum, (tuned,), and the loss there, nats; None if its runs have none.

        Args:
            x: log2 of the tuned values, (runs, tuned), of one run or more.
            losses: nats, (runs,).
        """

    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        tuned = runs.x.shape[1]
        x, losses = np.full((runs.num_scales, tuned), np.nan), np.full(runs.num_scales, np.nan)
        for place in range(runs.num_scales):
            own = runs.of_scale(place) & np.isfinite(runs.loss)
            found = self.optimum(runs.x[own], runs.loss[own]) if own.any() else None
            if found is not None:
                x[place], losses[place] = found
        return [equal_weight_likelihood(x, losses)]


def equal_weight_likelihood(x: Array, losses: Array) -> OptimaEstimate:
    """What an estimator without errors found: all scales count alike.

    Args:
        x: log2 of each scale's optimum, (scales, tuned); NaN where there is none.
        losses: at each scale's optimum, nats.
    """
    precision = np.where(np.isfinite(x).reshape(-1), ALIKE_OCTAVES**-2, 0.0)
    told = OptimaLikelihood(np.diag(precision), precision * np.nan_to_num(x.reshape(-1)), x.shape[1])
    flat = np.full((*x.shape, x.shape[1]), np.nan)
    positive = np.where(losses > 0, losses, np.nan)  # a vertex far outside may lie below 0
    return OptimaEstimate(told, flat, np.log(positive), np.nan)
