"""MFP: mean-field parameterization, unit variances and a 1/fan-in readout."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

MFP = PARAMETERIZATIONS.register("mfp")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(a=1 / 2),
            Role.OUTPUT: RoleExponents(a=1),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2407.05872, mean-field rows",
    )
)
