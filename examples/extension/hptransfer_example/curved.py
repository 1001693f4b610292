"""Curved: a power of every axis, and a quadratic in the logarithm of one of them."""

from __future__ import annotations

from collections.abc import Mapping

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Term, Variant, intercept_term, slope_terms

# Of the quadratic's coefficient before any run, in octaves per octave squared.
DEVIATION = 0.2


class Curved(Law):
    """The law; it has one variant for each axis with at least three values."""

    def variants(self, swept: SweptAxes) -> list[Variant]:
        """Return the variants on these axes."""
        straight = [intercept_term(), *slope_terms(swept, swept.moving)]
        return [
            Variant("curved", [*straight, _square(swept, axis)], f"in {axis}")
            for axis in swept.moving
            if len(swept.values[axis]) >= 3
        ]


def _square(swept: SweptAxes, axis: str) -> Term:
    octaves = swept.octaves(axis)

    def feature(scale: Mapping[str, float]) -> float:
        return octaves(scale) ** 2

    return Term(feature, mean=0.0, deviation=DEVIATION)


LAWS.register("curved")(Curved())
