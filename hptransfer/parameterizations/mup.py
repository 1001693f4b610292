"""muP: maximal update parameterization, readout-multiplier form (Yang et al. 2022, arXiv:2203.03466)."""

from hptransfer.parameterizations._base import PARAMETERIZATIONS, Parameterization, Role, Row

MUP = PARAMETERIZATIONS.register("mup")(
    Parameterization(
        rows={
            Role.INPUT: Row(a=0, b=0),
            Role.HIDDEN: Row(a=0, b=1 / 2),
            Role.OUTPUT: Row(a=1, b=0),
            Role.VECTOR: Row(a=0, b=0),
            Role.FIXED: Row(a=0, b=0),
        },
        source="arXiv:2203.03466, Table 3 with the 1/fan_in readout multiplier of the mup package",
        published={
            ("adam", Role.INPUT): 0,
            ("adam", Role.HIDDEN): -1,
            ("adam", Role.OUTPUT): 0,
            ("adam", Role.VECTOR): 0,
            ("sgd", Role.INPUT): 1,
            ("sgd", Role.HIDDEN): 0,
            ("sgd", Role.OUTPUT): 1,
            ("sgd", Role.VECTOR): 1,
        },
    )
)
