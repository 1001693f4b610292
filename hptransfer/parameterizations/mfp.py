"""MFP: mean-field parameterization, unit variances and a 1/fan-in readout."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

MFP = PARAMETERIZATIONS.register("mfp")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(a=1 / 2),
            Role.OUTPUT: Row(a=1),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2407.05872, mean-field rows",
    )
)
