"""Runs that are left out: diverged to a finite loss, or outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hptransfer.analysis.optima.divergence import DivergenceModel, fit_divergence
from hptransfer.analysis.optima.residuals import STRAY_SHARE, sound_probability
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.optima.run_selection import broken_seeds
from hptransfer.analysis.tables.arrays import OWN_INTERCEPT, Array, Runs

DIVERGED, OUTLIER = "diverged", "outlier"
# Least error of the response shape far from the optimum, as a share of the excess.
FAR_DISCREPANCY = 0.5
# Difference of responses between seeds, which a run whose seed has no intercept of its own may show.
SEED_LEVEL = 0.02


@dataclass(frozen=True)
class ExcludedRun:
    """A run with a finite loss that does not enter the fit.

    Attributes:
        row: of the table, the first one below the header being 1.
        reason: DIVERGED or OUTLIER.
        excess: loss above that of the fitted response surface.
    """

    row: int | str
    reason: str
    excess: float


@dataclass(frozen=True, eq=False)
class JudgedRuns:
    """Runs of which the stray ones have an infinite loss.

    Attributes:
        divergence: probability of divergence; None if no run diverged.
    """

    runs: Runs
    excluded: Sequence[ExcludedRun]
    divergence: DivergenceModel | None


def judge_runs(runs: Runs, surfaces: Sequence[ResponseSurface]) -> JudgedRuns:
    """Separate stray runs from sound ones, by the fitted surfaces.

    A stray run beyond the edge of divergence diverged; any other one is an outlier, which says nothing about the edge.
    """
    finite = np.isfinite(runs.loss)
    parts = [_stray(runs, surface) for surface in surfaces]
    stray, residuals = (np.mean([part[row] for part in parts], axis=0) for row in range(2))
    edge = fit_divergence(runs, np.where(finite, stray * (residuals > 0), 1.0))
    if edge is not None and not edge.has_edge.any():
        edge = None
    if edge is not None:
        stray = _beyond_edge(runs, edge, stray, residuals)
    left_out = finite & (stray > 0.5)
    diverged = left_out & (residuals > 0)
    if edge is None:
        diverged = np.zeros_like(left_out)
    else:
        diverged &= edge.probabilities(runs.x, [runs.scales[index] for index in runs.scale]) > 0.5
    outlier = left_out & ~diverged
    excluded = []
    for index in map(int, np.flatnonzero(left_out)):
        excess = -runs.response.excess_loss(-residuals[index], runs.loss[index])
        excluded.append(ExcludedRun(runs.rows[int(index)], OUTLIER if outlier[index] else DIVERGED, float(excess)))
    judged = replace(runs, loss=np.where(left_out, np.inf, runs.loss), outlier=outlier)
    probability = np.where(outlier, 0.0, np.where(finite, stray * (residuals > 0), 1.0))
    return JudgedRuns(judged, excluded, fit_divergence(runs, probability))


def _beyond_edge(runs: Runs, edge: DivergenceModel, stray: Array, residuals: Array) -> Array:
    """Return probabilities to be stray, with the edge of divergence as prior.

    A run beyond the edge with too large a loss diverged, even where a bowl might rise as far.
    """
    diverges = edge.probabilities(runs.x, [runs.scales[index] for index in runs.scale])
    share = np.where(residuals > 0, np.clip(diverges, STRAY_SHARE, 1 - STRAY_SHARE), STRAY_SHARE)
    odds = stray / np.maximum(1 - stray, 1e-12) * share / (1 - share) * (1 - STRAY_SHARE) / STRAY_SHARE
    posterior: Array = odds / (1 + odds)
    return posterior


def _stray(runs: Runs, surface: ResponseSurface) -> tuple[Array, Array]:
    """Return each run's probability to be stray, and its residual.

    The residual is in the response. Both are 0 where unknown.
    """
    excess = surface.shape.excess(runs.x - surface.x[runs.scale], surface.octaves[runs.scale])
    known = np.isfinite(runs.loss) & np.isfinite(surface.intercepts[runs.scale])
    residuals = np.zeros(len(runs.loss))
    residuals[known] = runs.y[known] - surface.intercepts[runs.scale[known]] - excess[known]
    discrepancy = max(FAR_DISCREPANCY, surface.discrepancy)
    stray = 1 - sound_probability(residuals, surface.noise**2 + SEED_LEVEL**2 + (discrepancy * excess) ** 2)
    fitted = np.zeros(len(runs.loss), dtype=bool)
    fitted[surface.runs] = np.bincount(runs.intercept[surface.runs])[runs.intercept[surface.runs]] >= OWN_INTERCEPT
    of_fit = fitted[surface.runs]
    residuals[fitted], stray[fitted] = surface.residuals[of_fit], 1 - surface.sound[of_fit]
    stray[broken_seeds(runs)] = 1.0
    return np.where(known, stray, 0.0), residuals
