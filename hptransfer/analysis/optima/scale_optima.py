"""The optimum of every scale by its own runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.tables.arrays import Array, Axes, Mask, Runs

BRACKETED = "bracketed"
EDGE_LOW = "edge, low"
EDGE_HIGH = "edge, high"
BOUNDED = "bounded by divergence"
TOO_FEW = "too few runs"
# An optimum with a larger standard error by the scale's own runs counts as unknown.
LOOSE_OCTAVES = 1.5


@dataclass(frozen=True, eq=False)
class Optimum:
    """Optimum of one scale by its own runs and the common shape.

    Attributes:
        x: log2 of the optimum, by tuned hyperparameter.
        se: standard error of `x` in octaves; infinite if the optimum is unknown.
        curvature: of the loss along each tuned hyperparameter with the others fixed, per octave squared.
        loss: at the optimum, to be minimized; NaN if unknown.
        status: by tuned hyperparameter: BRACKETED, or the reason why it is not.
        tried: lowest and highest log2 of the tried values, by tuned hyperparameter.
        runs, diverged: number of runs, and of those that diverged.
    """

    axes: Axes
    x: Array
    se: Array
    curvature: Array
    loss: float
    status: tuple[str, ...]
    tried: Array
    runs: int
    diverged: int

    @property
    def bracketed(self) -> bool:
        """True if the optimum is bracketed along all hyperparameters."""
        return all(status == BRACKETED for status in self.status)


def find_optima(runs: Runs, estimates: Sequence[OptimaEstimate], shapes: Sequence[OptimaEstimate]) -> list[Optimum]:
    """Return the optima of all scales, cheapest first."""
    by_own_runs = [estimate.likelihood.by_scale() for estimate in estimates]
    x = np.mean([optima for optima, _ in by_own_runs], axis=0)
    se = np.mean([errors for _, errors in by_own_runs], axis=0)
    intercepts = np.mean([shape.intercepts for shape in shapes], axis=0)
    curvature = np.mean([shape.curvature for shape in shapes], axis=0)
    guided = np.mean([shape.surface.x for shape in shapes if shape.surface], axis=0)
    optima = []
    for index, axes in enumerate(runs.scales):
        mask = runs.of_scale(index)
        finite = mask & np.isfinite(runs.loss)
        placed = se[index] < LOOSE_OCTAVES
        loss = float(runs.response.loss(intercepts[index]))
        optima.append(
            Optimum(
                axes=axes,
                x=np.minimum(np.where(placed, x[index], guided[index]), runs.columns.upper),
                se=np.where(placed, se[index], np.inf),
                curvature=runs.response.slope(loss) * np.diag(curvature[index]),
                loss=loss,
                status=_optimum_status(runs, mask, finite, placed),
                tried=np.stack([runs.x[mask].min(axis=0), runs.x[mask].max(axis=0)], axis=1),
                runs=int(mask.sum()),
                diverged=int((mask & ~finite & ~runs.outlier).sum()),
            )
        )
    return optima


def _optimum_status(runs: Runs, mask: Mask, finite: Mask, placed: Mask) -> tuple[str, ...]:
    """Return the status of a scale's optimum, by tuned hyperparameter."""
    if not finite.any():
        return (TOO_FEW,) * len(placed)
    best = np.flatnonzero(finite)[np.argmin(runs.loss[finite])]
    status = []
    for k, is_placed in enumerate(placed):
        low, high = runs.x[finite, k].min(), runs.x[finite, k].max()
        if low == high:
            status.append(TOO_FEW)
        elif runs.x[best, k] == low:
            status.append(EDGE_LOW)
        elif runs.x[best, k] == high:
            status.append(BOUNDED if runs.x[mask, k].max() > high else EDGE_HIGH)
        else:
            status.append(BRACKETED if is_placed else TOO_FEW)
    return tuple(status)
