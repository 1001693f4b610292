"""muP, square-root form: one SGD rate for all matrices."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

MUP_SQRT = PARAMETERIZATIONS.register("mup_sqrt")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(a=-1 / 2, b=1 / 2),
            Role.HIDDEN: RoleExponents(b=1 / 2),
            Role.OUTPUT: RoleExponents(a=1 / 2, b=1 / 2),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2011.14522 as abc form; 2505.02222, Fig. 5",
    )
)
