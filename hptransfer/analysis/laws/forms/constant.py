"""Constant: the optimum does not move; what a parameterization that transfers promises."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, Seen, Variant, level


class Constant(Law):
    def variants(self, seen: Seen) -> list[Variant]:
        return [Variant("constant", [level()])]


LAWS.register("constant")(Constant())
