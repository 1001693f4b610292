"""Estimators of the optimum of every scale, one file each."""

from hptransfer.analysis.optima.estimators._base import (
    ESTIMATORS,
    ByScale,
    Estimator,
    OptimaEstimate,
    equal_weight_likelihood,
)

__all__ = [
    "ByScale",
    "ESTIMATORS",
    "Estimator",
    "OptimaEstimate",
    "equal_weight_likelihood",
]
