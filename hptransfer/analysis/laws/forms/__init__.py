"""Laws: forms in which the optimum may move with scale. One file each."""

from hptransfer.analysis.laws.forms._base import LAWS, Feature, Law, Seen, Term, Variant, level, slopes

__all__ = [
    "Feature",
    "LAWS",
    "Law",
    "Seen",
    "Term",
    "Variant",
    "level",
    "slopes",
]
