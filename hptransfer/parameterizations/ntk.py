"""NTK: neural tangent parameterization, unit variances and fan-in multipliers."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

NTK = PARAMETERIZATIONS.register("ntk")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(a=1 / 2),
            Role.OUTPUT: RoleExponents(a=1 / 2),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2407.05872, NTK rows",
    )
)
