"""muP, readout-multiplier form: what the mup package trains; embeddings may be tied."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

MUP = PARAMETERIZATIONS.register("mup")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(b=1 / 2),
            Role.OUTPUT: Row(a=1),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2203.03466, Table 3 with the 1/fan-in readout multiplier of the mup package",
    )
)
