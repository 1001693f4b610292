"""Contract kit of the parameterizations: complete tables, neutral at the base."""

from __future__ import annotations

import math

from hptransfer.parameterizations import (
    ENTRYWISE,
    INVERSE_CURVATURE,
    PARAMETERIZATIONS,
    RAW,
    RELATIVE,
    SPECTRAL,
    SPECTRAL_RMS,
    Role,
    Sizes,
    TensorRule,
    resolve,
)

UPDATE_LAWS = (ENTRYWISE, RAW, RELATIVE, SPECTRAL, SPECTRAL_RMS, INVERSE_CURVATURE)
"""Update laws of the built-in optimizers."""


def check_exponents(name: str) -> None:
    """Check that every role has finite exponents, with their source."""
    table = PARAMETERIZATIONS.get(name)
    missing = set(Role) - set(table.rows)
    assert not missing, f"{name} has no row for {', '.join(role.value for role in missing)}"
    for role, row in table.rows.items():
        assert math.isfinite(row.a) and math.isfinite(row.b), f"{name}, role {role.value}: exponents must be finite"  # noqa: PT018
    assert table.source, f"{name} must name its paper and table in `source`"
    assert table.decay in ("coupled", "independent"), f"{name}: decay must be coupled or independent"


def check_base(name: str) -> None:
    """Check that nothing changes at the base, for every update law."""
    table = PARAMETERIZATIONS.get(name)
    for law in table.laws or UPDATE_LAWS:
        for role in Role:
            rule = resolve(table, law, role, Sizes.alike(role, 1, inside=True))
            assert rule == TensorRule(role=role), f"{name}, role {role.value}, {law}: got {rule} at the base"


CHECKS = (check_exponents, check_base)
