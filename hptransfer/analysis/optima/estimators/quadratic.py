"""Quadratic: vertex of a paraboloid through each scale's best runs."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

# Runs within this excess of the best (nats) enter the fit, and at least this number per coefficient.
NEAR_NATS = 0.02
PER_COEFFICIENT = 1.5


class Quadratic(ByScale):
    """Estimator by a least-squares paraboloid."""

    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        return vertex(x, losses)


def vertex(x: Array, losses: Array) -> tuple[Array, float] | None:
    """Return the minimum and the loss of a fitted paraboloid.

    It is fitted to the best runs. None if it has no minimum within the tried values, or if there are too few runs.
    """
    tuned = x.shape[1]
    pairs = [(k, j) for k in range(tuned) for j in range(k, tuned)]
    fewest_runs = int(np.ceil(PER_COEFFICIENT * (1 + tuned + len(pairs))))
    order = np.argsort(losses)
    best = order[: max(fewest_runs, int((losses < losses.min() + NEAR_NATS).sum()))]
    if len(best) < 1 + tuned + len(pairs):
        return None
    centre = x[best].mean(axis=0)
    t = x[best] - centre
    columns = [np.ones(len(t)), *t.T, *(t[:, k] * t[:, j] for k, j in pairs)]
    intercept, *coefficients = np.linalg.lstsq(np.column_stack(columns), losses[best], rcond=None)[0]
    slope, bends = np.array(coefficients[:tuned]), coefficients[tuned:]
    half = np.zeros((tuned, tuned))
    for (k, j), bend in zip(pairs, bends, strict=True):
        half[k, j] += bend / 2
        half[j, k] += bend / 2
    if np.linalg.eigvalsh(half).min() <= 0:
        return None
    offset = -np.linalg.solve(half, slope) / 2
    inside = (x.min(axis=0) <= centre + offset) & (centre + offset <= x.max(axis=0))
    return (centre + offset, float(intercept + slope @ offset / 2)) if inside.all() else None


ESTIMATORS.register("quadratic")(Quadratic())
