"""Rules of one tensor in one run, resolved from a parameterization."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import Parameterization, Role, ShapePower, UpdateLaw
from hptransfer.parameterizations._group_rules import Scaling, memory


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a tensor over its sizes in the base model.

    Sizes that do not grow are 1.

    Attributes:
        fan_in, fan_out: sides of a matrix; a vector's length is its fan-out.
        largest: the larger of fan-in and fan-out, over the larger of the base's.
        averaged: number of layers' outputs in the mean that this layer's output is part of (experts).
        spread: factor that the model sets on the spread of initial values, in addition to the table (an expert's last
            matrix).
        inside: True if the tensor is inside a residual block.
        lookup: True for an embedding, of which one row is read.
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
        """Return sizes of a role with every growing side n times larger."""
        fan_in = n if role in (Role.HIDDEN, Role.OUTPUT) else 1.0
        fan_out = n if role in (Role.HIDDEN, Role.INPUT, Role.VECTOR) else 1.0
        return cls(fan_in=fan_in, fan_out=fan_out, largest=max(fan_in, fan_out), inside=inside)

    @classmethod
    def between(
        cls, role: Role, fans: tuple[int, int], base: tuple[int, int], *, inside: bool = False, lookup: bool = False
    ) -> Sizes:
        """Return a tensor's sizes from its fans and the base model's.

        Only sides that grow in its role count.
        """
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
        """Return the sizes raised to a power."""
        matrix: float = self.fan_in**power.fan_in * self.fan_out**power.fan_out * self.largest**power.largest
        return matrix * float(self.averaged**power.averaged * self.spread**power.spread)


@dataclass(frozen=True, kw_only=True)
class BranchRule:
    """Depth rule of residual branches: h + m_L^-alpha F(h).

    m_L is the depth over the base's.

    Attributes:
        alpha: 0 for no rule; 1/2 (arXiv:2309.16620, 2310.02244); 1 (CompleteP, 2505.01618).
        rates: True if learning rates scale with depth too, so that the stream's change keeps its size.
        ratio: m_L.
    """

    alpha: float = 0.0
    rates: bool = True
    ratio: float = 1.0

    @property
    def factor(self) -> float:
        """Factor of every branch's output."""
        return float(self.ratio**-self.alpha)

    def learning_rate(self, law: UpdateLaw) -> float:
        """Return the factor on learning rates inside branches.

        L branches of factor n^-alpha each move by their step, whose gradient carries another n^-alpha.
        """
        if not self.alpha or not self.rates:
            return 1.0
        return float(self.ratio ** (self.alpha * (1 + law.gradient) - 1))


@dataclass(frozen=True, kw_only=True)
class BudgetRatio:
    """Batch size and token budget over those of the base run.

    Sources: arXiv:2205.10287; 2512.22382, Table 1.

    Attributes:
        rule: "none"; "sqrt", the square-root rule at equal tokens; "complete", Complete(d)P's, which scales with the
            batch over the token budget.
        batch, tokens: m_B and m_D.
    """

    rule: str = "none"
    batch: float = 1.0
    tokens: float = 1.0

    @property
    def ratio(self) -> float:
        """Factor on 1 - beta.

        Learning rate and coupled decay scale with its root, epsilon with its inverse root.
        """
        return {"none": 1.0, "sqrt": self.batch, "complete": self.batch / self.tokens}[self.rule]

    @property
    def memory(self) -> Scaling:
        """Scaling of the memories of moments."""
        return memory(self.ratio)


BUDGET_RULES = ("none", "sqrt", "complete")


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Factors on the base values of one tensor.

    All are 1 in the base run.

    Attributes:
        weight_decay: factor on coupled weight decay. Its product with `learning_rate` depends on the budget rule alone.
        budget: rule for the memories of moments.
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
    """Return the rule of one tensor.

    Factors of width, depth and budget multiply; their sources are with `Parameterization`, `BranchRule` and
    `BudgetRatio`. Learning rate times weight decay is constant over width, as published for AdamW (arXiv:2203.03466,
    completed by 2505.01618, Table 1, where decay does not depend on depth).
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
        # Gradients of unit size need the same epsilon everywhere.
        epsilon=1.0
        if parameterization.unit
        else sizes.to(parameterization.epsilon(role, alignment)) * inside.factor * budget.ratio**-0.5,
        weight_decay=budget.ratio**0.5 / width,
        budget=budget,
    )


def alignment_of(value: object, place: str) -> float | None:
    """Return the alignment that a configuration sets; None for the default.

    Allowed are default, full, none, and a measured number from 0.5 to 1.

    Raises:
        ConfigError: any other value.
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
