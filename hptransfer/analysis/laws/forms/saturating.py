"""Saturating: the optimum converges along one axis.

It is a power of all other axes.
The term is (1 - m^-q)/(q ln 2) with m the axis over its smallest value: one octave per octave there.
"""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

RATES = (0.25, 0.5, 1.0)


class Saturating(Law):
    """Form that converges along one axis."""

    order = 4

    def variants(self, seen: SweptAxes) -> list[Variant]:
        variants = []
        for axis in seen.moving:
            if len(seen.values[axis]) < 3:
                continue
            others = [other for other in seen.moving if other != axis]
            for rate in RATES:
                term = Term(_converging(seen.values[axis][0], axis, rate), axis)
                variants.append(
                    Variant("saturating", [intercept_term(), *slope_terms(seen, others), term], f"{axis}^-{rate:g}")
                )
        return variants


def _converging(smallest: float, axis: str, rate: float) -> Feature:
    return lambda scale: (1 - (smallest / scale[axis]) ** rate) / (rate * math.log(2))


LAWS.register("saturating")(Saturating())
