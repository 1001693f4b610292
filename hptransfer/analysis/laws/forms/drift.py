"""Drift: a power law plus a finite-width correction in 1/width.

The optimum of a smooth loss moves as x(n) = x_inf - alpha/n + O(1/n^2) (arXiv:2505.02222, appendix H).
"""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Term, Variant, intercept_term, slope_terms
from hptransfer.analysis.tables.axis_roles import WIDTH, named


class Drift(Law):
    """Power law with a correction in 1/width."""

    order = 3

    def variants(self, seen: SweptAxes) -> list[Variant]:
        width = named(seen.moving, WIDTH)
        if width is None or len(seen.values[width]) < 3:
            return []
        smallest = seen.values[width][0]
        term = Term(lambda scale: smallest / scale[width] - 1.0, mean=0.0, deviation=1.0)
        return [Variant("drift", [intercept_term(), *slope_terms(seen, seen.moving), term], f"in 1/{width}")]


LAWS.register("drift")(Drift())
