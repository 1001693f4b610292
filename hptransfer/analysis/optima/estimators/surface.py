"""Surface: response surface over all runs, averaged over its forms; the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optima.estimators import ESTIMATORS, Estimator, OptimaEstimate
from hptransfer.analysis.optima.response_shape import FORMS
from hptransfer.analysis.optima.response_surface import ResponseSurface, fit_response_surface
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.statistics.linear_model import LinearLaw, OptimaLikelihood, Posterior, solve
from hptransfer.analysis.tables.arrays import Array, Runs

# Scatter about the law before the first fit, octaves.
FIRST_SCATTER = 0.7


@dataclass(frozen=True, eq=False)
class PowerGuide:
    """Guide of the surface fit by a repeatedly fitted power law."""

    law: LinearLaw

    def start(self, x: Array) -> tuple[Array, Array]:
        """Return the law's optima and scatter from rough optima."""
        rough = np.full(x.shape[1], FIRST_SCATTER)
        likelihood = OptimaLikelihood(np.eye(x.size) / FIRST_SCATTER**2, x.reshape(-1) / FIRST_SCATTER**2, x.shape[1])
        return self._optima(solve(likelihood, self.law, [tuple(rough)])), rough

    def follow(self, information: Array, information_vector: Array) -> tuple[Array, Array]:
        """Return the law's optima and scatter from a likelihood of the optima."""
        posterior = solve(OptimaLikelihood(information, information_vector, len(self.law.means)), self.law)
        scatter: Array = np.exp(posterior.weights @ np.log(posterior.scatter))
        return self._optima(posterior), scatter

    def _optima(self, posterior: Posterior) -> Array:
        optima: Array = self.law.features @ np.tensordot(posterior.weights, posterior.coefficients, 1).T
        return optima


class SurfaceEstimator(Estimator):
    """Estimator by the response surface, one estimate a form."""

    published = False

    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        prior = priors.shape(runs.columns.known)
        return [_estimate(fit_response_surface(runs, form, prior, PowerGuide(law))) for form in FORMS]


def _estimate(surface: ResponseSurface) -> OptimaEstimate:
    return OptimaEstimate(
        likelihood=OptimaLikelihood(surface.information, surface.information_vector, surface.x.shape[1]),
        curvature=np.array([surface.shape.hessian(row) for row in surface.octaves]),
        intercepts=surface.intercepts,
        noise=surface.noise,
        surface=surface,
    )


ESTIMATORS.register("surface")(SurfaceEstimator())
