"""muP, square-root form: one SGD rate for all matrices."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

MUP_SQRT = PARAMETERIZATIONS.register("mup_sqrt")(
    Parameterization(
        rows={
            Role.INPUT: Row(a=-1 / 2, b=1 / 2),
            Role.HIDDEN: Row(b=1 / 2),
            Role.OUTPUT: Row(a=1 / 2, b=1 / 2),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2011.14522 as abc form; 2505.02222, Fig. 5",
    )
)
