"""Geometric mean of the runs within 0.25% of the best of their scale (Step Law, DeepSeek)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.estimators._base import ESTIMATORS, Estimator, Found, best_runs, points
from hptransfer.analysis.regression import Linear
from hptransfer.analysis.runs import Runs

NEAR = 0.0025


class GeometricMean(Estimator):
    published = True

    def find(self, runs: Runs, law: Linear) -> Sequence[Found]:
        x = np.full((runs.num_scales, runs.x.shape[1]), np.nan)
        losses = np.full(runs.num_scales, np.nan)
        for place, best in enumerate(best_runs(runs)):
            if best is not None:
                losses[place] = runs.loss[best]
                near = runs.of_scale(place) & (runs.loss < losses[place] * (1 + NEAR))
                x[place] = runs.x[near].mean(axis=0)
        return [points(runs, x, losses)]


ESTIMATORS.register("geometric_mean")(GeometricMean())
