"""Surface: one bowl over all runs with unequal sides, the mean over its forms; the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optima.estimators import ESTIMATORS, Estimator, OptimaEstimate
from hptransfer.analysis.optima.response_shape import FORMS
from hptransfer.analysis.optima.response_surface import ResponseSurface, fit_response_surface
from hptransfer.analysis.statistics import priors
from hptransfer.analysis.statistics.linear_model import (
    LinearLaw,
    OptimaLikelihood,
    log_prior,
    scatters,
    solve,
    solve_each,
)
from hptransfer.analysis.tables.arrays import Array, Runs

# Scatter about the law before a first fit has shown it, octaves.
FIRST_SCATTER = 0.7


@dataclass(frozen=True, eq=False)
class PowerGuide:
    """Guides a fit by the power law through what is known so far."""

    law: LinearLaw

    def start(self, x: Array) -> tuple[Array, Array]:
        rough = np.full(x.shape[1], FIRST_SCATTER)
        told = OptimaLikelihood(np.eye(x.size) / FIRST_SCATTER**2, x.reshape(-1) / FIRST_SCATTER**2, x.shape[1])
        towards: Array = self.law.features @ solve(told, self.law, tuple(rough)).coefficients.T
        return towards, rough

    def follow(self, information: Array, information_vector: Array) -> tuple[Array, Array]:
        told = OptimaLikelihood(information, information_vector, len(self.law.means))
        grid = scatters(told.tuned)
        found = solve_each(told, self.law, grid)
        logs = np.array([one.evidence + log_prior(scatter) for one, scatter in zip(found, grid, strict=True)])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        coefficients = np.tensordot(weights, np.array([one.coefficients for one in found]), 1)
        scatter: Array = np.exp(weights @ np.log(np.array(grid)))
        return self.law.features @ coefficients.T, scatter


class SurfaceEstimator(Estimator):
    published = False

    def find(self, runs: Runs, law: LinearLaw) -> Sequence[OptimaEstimate]:
        prior = priors.shape(runs.columns.known)
        return [_found(fit_response_surface(runs, form, prior, PowerGuide(law))) for form in FORMS]


def _found(surface: ResponseSurface) -> OptimaEstimate:
    return OptimaEstimate(
        told=OptimaLikelihood(surface.information, surface.information_vector, surface.x.shape[1]),
        curvature=np.array([surface.shape.hessian(row) for row in surface.octaves]),
        intercepts=surface.intercepts,
        noise=surface.noise,
        surface=surface,
    )


ESTIMATORS.register("surface")(SurfaceEstimator())
