"""muP, Table-3 form: no multipliers, a readout of variance 1/n^2."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

MUP_TABLE3 = PARAMETERIZATIONS.register("mup_table3")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(b=1 / 2),
            Role.OUTPUT: Row(b=1),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2203.03466, Table 3",
    )
)
