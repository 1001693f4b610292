"""Tokens per parameter: a power of the ratio of tokens to parameters.

Size and budget enter only through their ratio (Power Lines, arXiv:2505.13738).
"""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Term, Variant, intercept_term, slope_terms
from hptransfer.analysis.tables.axis_roles import PARAMS, TOKENS, named


class TokensPerParameter(Law):
    """Form with a power of tokens per parameter."""

    order = 7

    def variants(self, seen: SweptAxes) -> list[Variant]:
        params, tokens = named(seen.moving, PARAMS), named(seen.moving, TOKENS)
        if params is None or tokens is None:
            return []
        ratio = seen.values[tokens][0] / seen.values[params][0]
        term = Term(lambda scale: math.log2(scale[tokens] / scale[params] / ratio), tokens)
        others = [axis for axis in seen.moving if axis not in (params, tokens)]
        return [
            Variant("tokens_per_parameter", [intercept_term(), *slope_terms(seen, others), term], f"{tokens}/{params}")
        ]


LAWS.register("tokens_per_parameter")(TokensPerParameter())
