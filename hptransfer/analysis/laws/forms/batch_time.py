"""Batch and time: a maximum at a critical batch size.

The optimum grows as sqrt(B/T) below a critical batch k T and falls as sqrt(T/B) above it:

    eta*(B, T) = 2 eta_max / (sqrt(B/(k T)) + sqrt(k T/B))

The form with the limits of Time Transfer (arXiv:2410.05838); it equals the surge law (arXiv:2405.14578)
with a critical batch of k T. A hypothesis to test against the power law. For one tuned hyperparameter.
"""

from __future__ import annotations

import math

import numpy as np

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms
from hptransfer.analysis.tables.arrays import Axes
from hptransfer.analysis.tables.quantities import BATCH_NAMES, TOKEN_NAMES, axis_named

# Critical batch sizes that are tried.
CRITICAL_VALUES = 17


class BatchTime(Law):
    """Form with a maximum at a critical batch size."""

    order = 6

    def variants(self, swept: SweptAxes) -> list[Variant]:
        batch, tokens = axis_named(swept.moving, BATCH_NAMES), axis_named(swept.moving, TOKEN_NAMES)
        if batch is None or tokens is None:
            return []
        others = [axis for axis in swept.moving if axis not in (batch, tokens)]
        low = math.log2(swept.values[batch][0] / swept.values[tokens][-1])
        high = math.log2(swept.values[batch][-1] / swept.values[tokens][0])
        variants = []
        for critical in np.linspace(low - 3, high + 3, CRITICAL_VALUES):
            surge = Term(_surge(batch, tokens, float(critical)), mean=1.0, deviation=0.01)
            detail = f"critical {batch} {2.0**critical:.3g} {tokens}"
            variants.append(Variant("batch_time", [intercept_term(), *slope_terms(swept, others), surge], detail))
        return variants


def _surge(batch: str, tokens: str, critical: float) -> Feature:
    def feature(scale: Axes) -> float:
        half = (math.log2(scale[batch] / scale[tokens]) - critical) / 2
        return 1 - math.log2(2.0**half + 2.0**-half)

    return feature


LAWS.register("batch_time")(BatchTime())
