"""SP: standard parameterization; one learning rate for all, or by layer once an alignment is given."""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, Row

SP = PARAMETERIZATIONS.register("sp")(
    Parameterization(
        rows={
            Role.INPUT: Row(),
            Role.HIDDEN: Row(b=1 / 2),
            Role.OUTPUT: Row(b=1 / 2),
            Role.VECTOR: Row(),
            Role.FIXED: Row(),
        },
        source="arXiv:2407.05872, SP rows",
        global_rate=True,
    )
)
