"""Broken: the power along one axis changes at an inner swept value."""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

# Values of an axis that a break needs: two on either side.
VALUES_FOR_A_BREAK = 4
# Breaks that are tried along an axis.
BREAKS = 4


class Broken(Law):
    """Power law with a break along one axis."""

    order = 5

    def variants(self, swept: SweptAxes) -> list[Variant]:
        variants = []
        for axis in swept.moving:
            inner = swept.values[axis][1:-1] if len(swept.values[axis]) >= VALUES_FOR_A_BREAK else []
            for value in inner[:: max(1, len(inner) // BREAKS)]:
                bend = Term(_beyond(axis, value), mean=0.0, deviation=0.5)
                terms = [intercept_term(), *slope_terms(swept, swept.moving), bend]
                variants.append(Variant("broken", terms, f"at {axis}={value:g}"))
        return variants


def _beyond(axis: str, value: float) -> Feature:
    return lambda scale: max(0.0, math.log2(scale[axis] / value))


LAWS.register("broken")(Broken())
