"""A parameterization resolved to numbers: what one parameter group trains with at one width."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.parameterizations._base import Parameterization, Role, UpdateLaw


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Factors on the base values of one role; all are 1 at the base width."""

    role: Role
    multiplier: float
    init_std: float
    learning_rate: float
    epsilon: float
    weight_decay: float

    @classmethod
    def unity(cls, role: Role) -> Rule:
        """The rule at the base width."""
        return cls(role=role, multiplier=1.0, init_std=1.0, learning_rate=1.0, epsilon=1.0, weight_decay=1.0)


def resolve(parameterization: Parameterization, law: UpdateLaw, *, width: float, base_width: float) -> dict[Role, Rule]:
    """The rule of every role at a width.

    Args:
        width, base_width: width of the model, and the width at which every factor is exactly 1.
    """
    n = width / base_width
    return {
        role: Rule(
            role=role,
            multiplier=n**-row.a,
            init_std=n**-row.b,
            learning_rate=n ** parameterization.learning_rate_exponent(role, law),
            epsilon=n ** parameterization.epsilon_exponent(role),
            weight_decay=n ** parameterization.weight_decay_exponent(role),
        )
        for role, row in parameterization.rows.items()
    }
