"""NTK: neural tangent parameterization, unit variances and fan-in multipliers."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

NTK = PARAMETERIZATIONS.register("ntk")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(a=1 / 2),
            Role.OUTPUT: Row(a=1 / 2),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2407.05872, NTK rows",
    )
)
