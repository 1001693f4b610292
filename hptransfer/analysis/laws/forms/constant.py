"""Constant: the optimum does not move; what a parameterization that transfers promises."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, intercept_term


class Constant(Law):
    order = 1

    def variants(self, seen: SweptAxes) -> list[Variant]:
        return [Variant("constant", [intercept_term()])]


LAWS.register("constant")(Constant())
