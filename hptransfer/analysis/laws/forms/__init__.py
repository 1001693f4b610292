"""Laws: forms of the optimum against scale, one file each."""

from hptransfer.analysis.laws.forms._base import (
    LAWS,
    Feature,
    Law,
    SweptAxes,
    Term,
    Variant,
    default_laws,
    intercept_term,
    slope_terms,
)

__all__ = [
    "Feature",
    "LAWS",
    "Law",
    "SweptAxes",
    "Term",
    "Variant",
    "default_laws",
    "intercept_term",
    "slope_terms",
]
