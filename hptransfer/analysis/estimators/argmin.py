"""Argmin: the best run of every scale (Everett, Lingle, Tensor Programs V)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.estimators._base import ESTIMATORS, Estimator, Found, best_runs, points
from hptransfer.analysis.regression import Linear
from hptransfer.analysis.runs import Runs


class Argmin(Estimator):
    published = True

    def find(self, runs: Runs, law: Linear) -> Sequence[Found]:
        best = best_runs(runs)
        nowhere = np.full(runs.x.shape[1], np.nan)
        x = np.array([nowhere if place is None else runs.x[place] for place in best])
        return [points(runs, x, np.array([np.nan if place is None else runs.loss[place] for place in best]))]


ESTIMATORS.register("argmin")(Argmin())
