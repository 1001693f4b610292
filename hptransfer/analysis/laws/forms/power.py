"""Power: a power of every axis; the null model of all others, and what exponents are read off."""

from __future__ import annotations

from hptransfer.analysis.laws.forms import LAWS, Law, Seen, Variant, level, slopes


class Power(Law):
    def variants(self, seen: Seen) -> list[Variant]:
        return [Variant("power", [level(), *slopes(seen, seen.moving)])]


LAWS.register("power")(Power())
