"""Argmin: the best run of every scale (Everett, Lingle, Tensor Programs V)."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array


class Argmin(ByScale):
    """Estimator that takes the best run of every scale."""

    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        best = int(np.argmin(losses))
        return x[best], float(losses[best])


ESTIMATORS.register("argmin")(Argmin())
