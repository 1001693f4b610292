"""Argmin: the best run of every scale (Everett, Lingle, Tensor Programs V)."""

from __future__ import annotations

import numpy as np

from hptransfer.analysis.estimators._base import ESTIMATORS, ByScale
from hptransfer.analysis.runs import Array


class Argmin(ByScale):
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        best = int(np.argmin(losses))
        return x[best], float(losses[best])


ESTIMATORS.register("argmin")(Argmin())
