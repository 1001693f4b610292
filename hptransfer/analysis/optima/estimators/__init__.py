"""Estimators: how the optimum of every scale is read off its runs. One file each."""

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
