"""Power: a power of every axis; the null model of all others, and what exponents are read off."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, intercept_term, slope_terms


class Power(Law):
    order = 2

    def variants(self, seen: SweptAxes) -> list[Variant]:
        return [Variant("power", [intercept_term(), *slope_terms(seen, seen.moving)])]


LAWS.register("power")(Power())
