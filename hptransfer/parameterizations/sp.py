"""SP: standard parameterization, one learning rate for all layers.

With a given alignment (run.alignment) rates differ by layer.
"""

from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, RoleExponents

SP = PARAMETERIZATIONS.register("sp")(
    Parameterization(
        rows={
            Role.INPUT: RoleExponents(),
            Role.HIDDEN: RoleExponents(b=1 / 2),
            Role.OUTPUT: RoleExponents(b=1 / 2),
            Role.VECTOR: RoleExponents(),
            Role.FIXED: RoleExponents(),
        },
        source="arXiv:2407.05872, SP rows",
        global_rate=True,
    )
)
