"""u-muP: weights of variance one, operations that keep values and gradients there, a rate rule for embeddings.

The learning rates are those of updates whose entries have unit size: Adam's, signs, and, as gradients have unit size
too, SGD's. There is no published rule for others.
"""

from hptransfer.parameterizations._base import ENTRYWISE, PARAMETERIZATIONS, RAW, Parameterization, Power, Role, Row

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
        laws=(RAW, ENTRYWISE),
        decay="independent",
    )
)
