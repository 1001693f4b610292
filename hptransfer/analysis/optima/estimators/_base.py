"""Base class of estimators, which turn runs into estimates of optima."""

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
    """Estimate of all optima by one form of an estimator.

    Attributes:
        likelihood: of all optima together, scale by scale.
        curvature: half of the second derivative of the response at each scale's optimum, (scales, tuned, tuned).
        intercepts: response at each scale's optimum; NaN where unknown.
        noise: standard deviation of a run's response about the fit; NaN for an estimator without a fit.
        surface: the response surface, if the estimator fits one.
    """

    likelihood: OptimaLikelihood
    curvature: Array
    intercepts: Array
    noise: float
    surface: ResponseSurface | None = None


class Estimator(ABC):
    """Base class of estimators."""

    @property
    @abstractmethod
    def published(self) -> bool:
        """True if the law is fitted as in a published study.

        Such a law is a plain least-squares fit to the optima, without priors.
        """

    @abstractmethod
    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        """Estimate the optima of all scales.

        Args:
            law: a power law that may keep scales with few runs near the others.

        Returns:
            One or more estimates with equal prior weights.
        """


ESTIMATORS: Registry[Estimator] = Registry("estimator", "hptransfer.analysis.optima.estimators")

# Published estimators have no error estimate: every scale gets this one.
EQUAL_ERROR_OCTAVES = 0.1


class ByScale(Estimator):
    """Base class of published estimators, which treat each scale separately.

    They use the runs that did not diverge.
    """

    published = True

    @abstractmethod
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        """Return log2 of a scale's optimum and its loss, or None.

        Args:
            x: log2 of the tuned values, (runs, tuned), of one run or more.
            losses: to be minimized, (runs,).

        Returns:
            (tuned,), and the loss.
        """

    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        tuned = runs.x.shape[1]
        x, losses = np.full((runs.num_scales, tuned), np.nan), np.full(runs.num_scales, np.nan)
        for index in range(runs.num_scales):
            mask = runs.of_scale(index) & np.isfinite(runs.loss)
            optimum = self.optimum(runs.x[mask], runs.loss[mask]) if mask.any() else None
            if optimum is not None:
                x[index], losses[index] = optimum
        return [equal_weight_likelihood(x, runs.response.of(losses))]


def equal_weight_likelihood(x: Array, intercepts: Array) -> OptimaEstimate:
    """Return an estimate in which all scales have the same error.

    Args:
        x: log2 of each scale's optimum, (scales, tuned); NaN for a scale without one.
        intercepts: response at each scale's optimum, (scales,); NaN where unknown.
    """
    precision = np.where(np.isfinite(x).reshape(-1), EQUAL_ERROR_OCTAVES**-2, 0.0)
    likelihood = OptimaLikelihood(np.diag(precision), precision * np.nan_to_num(x.reshape(-1)), x.shape[1])
    flat = np.full((*x.shape, x.shape[1]), np.nan)
    return OptimaEstimate(likelihood, flat, intercepts, np.nan)
