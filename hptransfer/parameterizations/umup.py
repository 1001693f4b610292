"""u-muP: unit-variance weights, values and gradients; own rate rule for embeddings.

The published rates are those of updates whose entries have unit size: Adam's, and SGD's because gradients have unit
size too. The rates for Adafactor and Muon are derived. Optimizers that train embeddings with matrix steps have no
rates, because the rule for embeddings does not cover such steps. Optimizers that divide by a curvature have none
either, because the scaled operations change it.
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
