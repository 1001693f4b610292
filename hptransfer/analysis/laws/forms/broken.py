"""Broken: along one axis the power changes at one of the inner values that were swept."""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Feature, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

# A break needs so many values of its axis: two on either side.
VALUES = 4
# Places that are tried along an axis.
PLACES = 4


class Broken(Law):
    order = 5

    def variants(self, seen: SweptAxes) -> list[Variant]:
        found = []
        for axis in seen.moving:
            inner = seen.values[axis][1:-1] if len(seen.values[axis]) >= VALUES else []
            for place in inner[:: max(1, len(inner) // PLACES)]:
                bend = Term(_beyond(axis, place), mean=0.0, deviation=0.5)
                terms = [intercept_term(), *slope_terms(seen, seen.moving), bend]
                found.append(Variant("broken", terms, f"at {axis}={place:g}"))
        return found


def _beyond(axis: str, place: float) -> Feature:
    return lambda scale: max(0.0, math.log2(scale[axis] / place))


LAWS.register("broken")(Broken())
