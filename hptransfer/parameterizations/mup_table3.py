"""muP, Table-3 form: no multipliers, a readout of variance 1/n^2."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

MUP_TABLE3 = PARAMETERIZATIONS.register("mup_table3")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(b=1 / 2),
            Role.OUTPUT: RoleExponents(b=1),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2203.03466, Table 3",
    )
)
