"""SP: standard parameterization with one learning rate for all, as most people train."""

from hptransfer.parameterizations._base import PARAMETERIZATIONS, Parameterization, Role, Row

SP = PARAMETERIZATIONS.register("sp")(
    Parameterization(
        rows={
            Role.INPUT: Row(a=0, b=0),
            Role.HIDDEN: Row(a=0, b=1 / 2),
            Role.OUTPUT: Row(a=0, b=1 / 2),
            Role.VECTOR: Row(a=0, b=0),
            Role.FIXED: Row(a=0, b=0),
        },
        source="fan-in initialization; arXiv:2407.05872 (SP rows) without its per-layer rates",
        global_rate=True,
    )
)
