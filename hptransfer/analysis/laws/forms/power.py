"""Power: a power of every axis; the null model, which defines exponents."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, intercept_term, slope_terms


class Power(Law):
    """Form with a power of every axis."""

    order = 2

    def variants(self, swept: SweptAxes) -> list[Variant]:
        return [Variant("power", [intercept_term(), *slope_terms(swept, swept.moving)])]


LAWS.register("power")(Power())
