"""Saturating: along one axis the optimum moves ever less and comes to rest; a power of all others.

The term is (1 - m^-q)/(q ln 2) with m the axis over its smallest value: one octave per octave there.
"""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

RATES = (0.25, 0.5, 1.0)


class Saturating(Law):
    order = 4

    def variants(self, seen: SweptAxes) -> list[Variant]:
        found = []
        for axis in seen.moving:
            if len(seen.values[axis]) < 3:
                continue
            others = [other for other in seen.moving if other != axis]
            for rate in RATES:
                term = Term(_resting(seen.values[axis][0], axis, rate), axis)
                found.append(
                    Variant("saturating", [intercept_term(), *slope_terms(seen, others), term], f"{axis}^-{rate:g}")
                )
        return found


def _resting(smallest: float, axis: str, rate: float) -> Feature:
    return lambda scale: (1 - (smallest / scale[axis]) ** rate) / (rate * math.log(2))


LAWS.register("saturating")(Saturating())
