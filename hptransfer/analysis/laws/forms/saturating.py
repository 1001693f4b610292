"""Saturating: the optimum converges along one axis.

It is a power of all other axes. The term is (1 - m^-q)/(q ln 2) with m the axis over its smallest value: one octave
per octave there.
"""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

# Values of q that are tried.
DECAY_POWERS = (0.25, 0.5, 1.0)


class Saturating(Law):
    """Form that converges along one axis."""

    order = 4

    def variants(self, swept: SweptAxes) -> list[Variant]:
        variants = []
        for axis in swept.moving:
            if len(swept.values[axis]) < 3:
                continue
            others = [name for name in swept.moving if name != axis]
            for power in DECAY_POWERS:
                term = Term(_converging(swept.values[axis][0], axis, power), axis)
                variants.append(
                    Variant("saturating", [intercept_term(), *slope_terms(swept, others), term], f"{axis}^-{power:g}")
                )
        return variants


def _converging(smallest: float, axis: str, power: float) -> Feature:
    return lambda scale: (1 - (smallest / scale[axis]) ** power) / (power * math.log(2))


LAWS.register("saturating")(Saturating())
