"""u-muP's tables: weights of variance one, absolute multipliers, a rate rule for embeddings; plain operations."""

from hptransfer.parameterizations._base import PARAMETERIZATIONS, Parameterization, Power, Role, Row

UMUP = PARAMETERIZATIONS.register("umup")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(a=1 / 2),
            Role.OUTPUT: Row(a=1),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2407.17465 and the unit-scaling package",
        unit=True,
        depth=1 / 2,
        lookup=Power(fan_out=-1 / 2),
    )
)
