"""muP, readout-multiplier form: what the mup package trains; embeddings may be tied."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

MUP = PARAMETERIZATIONS.register("mup")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(b=1 / 2),
            Role.OUTPUT: RoleExponents(a=1),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2203.03466, Table 3 with the 1/fan-in readout multiplier of the mup package",
    )
)
