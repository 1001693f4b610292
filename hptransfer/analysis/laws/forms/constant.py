"""Constant: the same optimum at all scales, as under perfect transfer."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, intercept_term


class Constant(Law):
    """Form with the same optimum at all scales."""

    order = 1

    def variants(self, swept: SweptAxes) -> list[Variant]:
        return [Variant("constant", [intercept_term()])]


LAWS.register("constant")(Constant())
