"""u-muP: weights of variance one, operations that keep values and gradients there, a rate rule for embeddings.

Published are the rates of updates whose entries have unit size: Adam's, and, as gradients have unit size too, SGD's.
Those of Adafactor and Muon are derived. There are none for an optimizer that trains embeddings with matrix steps, as
their rule does not say how, or that divides by a curvature, which the operations change.
"""

from hptransfer.parameterizations import (
    ENTRYWISE,
    PARAMETERIZATIONS,
    RAW,
    RELATIVE,
    SPECTRAL_RMS,
    Parameterization,
    Role,
    RoleExponents,
    ShapePower,
)

UMUP = PARAMETERIZATIONS.register("umup")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(a=1 / 2),
            Role.OUTPUT: RoleExponents(a=1),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2407.17465 and the unit-scaling package",
        unit=True,
        depth=1 / 2,
        lookup=ShapePower(fan_out=-1 / 2),
        laws=(RAW, ENTRYWISE, RELATIVE, SPECTRAL_RMS),
        decay="independent",
    )
)
