"""Drift: a power law plus a finite-width correction in 1/width.

The optimum of a smooth loss moves as x(n) = x_inf - alpha/n + O(1/n^2) (arXiv:2505.02222, appendix H).
"""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Term, Variant, intercept_term, slope_terms
from hptransfer.analysis.tables.quantities import WIDTH_NAMES, axis_named


class Drift(Law):
    """Power law with a correction in 1/width."""

    order = 3

    def variants(self, swept: SweptAxes) -> list[Variant]:
        width = axis_named(swept.moving, WIDTH_NAMES)
        if width is None or len(swept.values[width]) < 3:
            return []
        smallest = swept.values[width][0]
        term = Term(lambda scale: smallest / scale[width] - 1.0, mean=0.0, deviation=1.0)
        return [Variant("drift", [intercept_term(), *slope_terms(swept, swept.moving), term], f"in 1/{width}")]


LAWS.register("drift")(Drift())
