"""Tokens per parameter: a power of the ratio of tokens to parameters.

Size and budget enter only through their ratio (Power Lines, arXiv:2505.13738).
"""

from __future__ import annotations

import math

from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Term, Variant, intercept_term, slope_terms
from hptransfer.analysis.tables.quantities import PARAM_NAMES, TOKEN_NAMES, axis_named


class TokensPerParameter(Law):
    """Form with a power of tokens per parameter."""

    order = 7

    def variants(self, swept: SweptAxes) -> list[Variant]:
        params, tokens = axis_named(swept.moving, PARAM_NAMES), axis_named(swept.moving, TOKEN_NAMES)
        if params is None or tokens is None:
            return []
        ratio = swept.values[tokens][0] / swept.values[params][0]
        term = Term(lambda scale: math.log2(scale[tokens] / scale[params] / ratio), tokens)
        others = [axis for axis in swept.moving if axis not in (params, tokens)]
        return [
            Variant("tokens_per_parameter", [intercept_term(), *slope_terms(swept, others), term], f"{tokens}/{params}")
        ]


LAWS.register("tokens_per_parameter")(TokensPerParameter())
