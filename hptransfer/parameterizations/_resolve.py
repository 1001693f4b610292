"""A parameterization resolved to numbers: what one tensor trains with in one run."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import Parameterization, Role, ShapePower, UpdateLaw


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A tensor's sizes over those that it has in the base model; 1 for what does not grow.

    Attributes:
        fan_in, fan_out: of a matrix; a vector's length is its fan-out.
        largest: the larger of fan-in and fan-out, over the larger of the base's.
        averaged: over how many layers' outputs the model takes a mean, of which this layer's is one (experts).
        spread: what the model itself asks of its first values' spread, beside the table (an expert's last matrix).
        inside: whether it stands in a residual block.
        lookup: whether it is an embedding, of which one row is read.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0
    largest: float = 1.0
    averaged: float = 1.0
    spread: float = 1.0
    inside: bool = False
    lookup: bool = False

    @classmethod
    def alike(cls, role: Role, n: float, *, inside: bool = False) -> Sizes:
        """All that grows in a role has grown n times."""
        fan_in = n if role in (Role.HIDDEN, Role.OUTPUT) else 1.0
        fan_out = n if role in (Role.HIDDEN, Role.INPUT, Role.VECTOR) else 1.0
        return cls(fan_in=fan_in, fan_out=fan_out, largest=max(fan_in, fan_out), inside=inside)

    @classmethod
    def between(
        cls, role: Role, fans: tuple[int, int], base: tuple[int, int], *, inside: bool = False, lookup: bool = False
    ) -> Sizes:
        """Of a tensor whose fan-in and fan-out are these and those in the base model: what its role says grows."""
        grows_in = role in (Role.HIDDEN, Role.OUTPUT)
        grows_out = role in (Role.INPUT, Role.HIDDEN, Role.VECTOR)

        def largest(pair: tuple[int, int]) -> int:
            return max(pair[0] if grows_in else 1, pair[1] if grows_out else 1)

        return cls(
            fan_in=fans[0] / base[0] if grows_in else 1.0,
            fan_out=fans[1] / base[1] if grows_out else 1.0,
            largest=largest(fans) / largest(base),
            inside=inside,
            lookup=lookup,
        )

    def to(self, power: ShapePower) -> float:
        """The sizes to a power."""
        matrix: float = self.fan_in**power.fan_in * self.fan_out**power.fan_out * self.largest**power.largest
        return matrix * float(self.averaged**power.averaged * self.spread**power.spread)


@dataclass(frozen=True, kw_only=True)
class BranchRule:
    """How residual branches go with depth: h + m_L^-alpha F(h), m_L the depth over the base's.

    Attributes:
        alpha: 0 is no rule at all; 1/2 (arXiv:2309.16620, 2310.02244); 1 (CompleteP, 2505.01618).
        rates: whether learning rates follow, so that the stream's change keeps its size.
        ratio: m_L.
    """

    alpha: float = 0.0
    rates: bool = True
    ratio: float = 1.0

    @property
    def factor(self) -> float:
        return float(self.ratio**-self.alpha)

    def learning_rate(self, law: UpdateLaw) -> float:
        """L branches of n^-alpha, each moved by its step, whose gradient carries another n^-alpha."""
        if not self.alpha or not self.rates:
            return 1.0
        return float(self.ratio ** (self.alpha * (1 + law.gradient) - 1))


@dataclass(frozen=True, kw_only=True)
class BudgetRatio:
    """Batch and token budget over those of the base run (arXiv:2205.10287; 2512.22382, Table 1).

    Attributes:
        rule: "none"; "sqrt", the square-root rule at equal tokens; "complete", Complete(d)P's, which goes by the
            batch over the token budget.
        batch, tokens: m_B and m_D.
    """

    rule: str = "none"
    batch: float = 1.0
    tokens: float = 1.0

    @property
    def ratio(self) -> float:
        """What 1 - beta is multiplied by; learning rate and coupled decay by its root, epsilon by the inverse root."""
        return {"none": 1.0, "sqrt": self.batch, "complete": self.batch / self.tokens}[self.rule]

    def beta(self, base: float) -> float:
        """A memory for this batch: 1 - beta goes with the ratio. Kept within [0.5, 0.9999], our choice."""
        return base if self.ratio == 1.0 else min(max(1 - (1 - base) * self.ratio, 0.5), 0.9999)


BUDGET_RULES = ("none", "sqrt", "complete")


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Factors on the base values of one tensor; all are 1 in the base run.

    Attributes:
        decay: on coupled weight decay; times `learning_rate` it is what the budget rule alone makes of it.
        budget: gives the memories of moments.
    """

    role: Role
    multiplier: float = 1.0
    init_std: float = 1.0
    learning_rate: float = 1.0
    epsilon: float = 1.0
    weight_decay: float = 1.0
    budget: BudgetRatio = BudgetRatio()


def resolve(
    parameterization: Parameterization,
    law: UpdateLaw,
    role: Role,
    sizes: Sizes,
    *,
    alignment: float | None = None,
    branch: BranchRule = BranchRule(),
    budget: BudgetRatio = BudgetRatio(),
) -> TensorRule:
    """The rule of one tensor.

    Width, depth and budget multiply (science of each: `Parameterization`, `BranchRule`, `BudgetRatio`). Weight
    decay keeps learning rate times decay over width, as published for AdamW (arXiv:2203.03466, completed
    by 2505.01618, Table 1, where depth leaves decay alone).
    """
    law = law.of_unit_gradients() if parameterization.unit else law
    power = parameterization.learning_rate(role, law, alignment)
    if sizes.lookup and parameterization.lookup is not None:
        power = parameterization.lookup
    width = sizes.to(power)
    inside = branch if sizes.inside else BranchRule()
    return TensorRule(
        role=role,
        multiplier=sizes.to(parameterization.multiplier(role)),
        init_std=sizes.to(parameterization.init_std(role)),
        learning_rate=width * inside.learning_rate(law) * budget.ratio**0.5,
        # Gradients of unit size ask for the same epsilon everywhere.
        epsilon=1.0
        if parameterization.unit
        else sizes.to(parameterization.epsilon(role, alignment)) * inside.factor * budget.ratio**-0.5,
        weight_decay=budget.ratio**0.5 / width,
        budget=budget,
    )


def alignment_of(value: object, place: str) -> float | None:
    """The alignment that a configuration asks for: default, full, none, or a measured number.

    Raises:
        ConfigError: anything else.
    """
    if value == "default":
        return None
    if value in ("full", "none"):
        return 1.0 if value == "full" else 0.5
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.5 <= value <= 1:
        return float(value)
    raise ConfigError(
        f"{place} must be default, full, none or a number from 0.5 to 1, got {value!r}; "
        "`hptransfer coord-check check=alignment` measures it"
    )
