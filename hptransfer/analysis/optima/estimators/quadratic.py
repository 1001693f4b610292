"""Quadratic: the vertex of a paraboloid through the runs near the best of every scale."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

# Runs within so many nats of the best enter it, and so many for each of its coefficients at least.
NEAR_NATS = 0.02
PER_COEFFICIENT = 1.5


class Quadratic(ByScale):
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        return vertex(x, losses)


def vertex(x: Array, losses: Array) -> tuple[Array, float] | None:
    """Where a least-squares paraboloid through the runs near the best has its minimum, and the loss there.

    None if it has none within the values that were tried, or there are too few runs.
    """
    tuned = x.shape[1]
    pairs = [(k, j) for k in range(tuned) for j in range(k, tuned)]
    wanted = int(np.ceil(PER_COEFFICIENT * (1 + tuned + len(pairs))))
    order = np.argsort(losses)
    near = order[: max(wanted, int((losses < losses.min() + NEAR_NATS).sum()))]
    if len(near) < 1 + tuned + len(pairs):
        return None
    centre = x[near].mean(axis=0)
    t = x[near] - centre
    columns = [np.ones(len(t)), *t.T, *(t[:, k] * t[:, j] for k, j in pairs)]
    level, *rest = np.linalg.lstsq(np.column_stack(columns), losses[near], rcond=None)[0]
    slope, bends = np.array(rest[:tuned]), rest[tuned:]
    half = np.zeros((tuned, tuned))
    for (k, j), bend in zip(pairs, bends, strict=True):
        half[k, j] += bend / 2
        half[j, k] += bend / 2
    if np.linalg.eigvalsh(half).min() <= 0:
        return None
    found = -np.linalg.solve(half, slope) / 2
    inside = (x.min(axis=0) <= centre + found) & (centre + found <= x.max(axis=0))
    return (centre + found, float(level + slope @ found / 2)) if inside.all() else None


ESTIMATORS.register("quadratic")(Quadratic())
