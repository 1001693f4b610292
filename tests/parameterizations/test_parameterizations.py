"""The formula against the published tables."""

import pytest

from hptransfer.parameterizations._base import PARAMETERIZATIONS, Role, UpdateLaw
from hptransfer.parameterizations._rules import resolve

ADAM, SGD = UpdateLaw(gradient=0), UpdateLaw(gradient=1)
LAWS = {"adam": ADAM, "sgd": SGD}


@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
def test_every_role_has_a_row(name: str) -> None:
    assert set(PARAMETERIZATIONS.get(name).rows) == set(Role)


@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
def test_the_formula_agrees_with_every_published_cell(name: str) -> None:
    table = PARAMETERIZATIONS.get(name)
    for (family, role), power in table.published.items():
        assert table.learning_rate_exponent(role, LAWS[family]) == power, (family, role)


def test_mup_has_published_cells_to_agree_with() -> None:
    assert len(PARAMETERIZATIONS.get("mup").published) == 8


@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
@pytest.mark.parametrize("law", LAWS.values())
def test_nothing_changes_at_the_base_width(name: str, law: UpdateLaw) -> None:
    for rule in resolve(PARAMETERIZATIONS.get(name), law, width=64, base_width=64).values():
        values = (rule.multiplier, rule.init_std, rule.learning_rate, rule.epsilon, rule.weight_decay)
        assert values == (1, 1, 1, 1, 1)


def test_mup_epsilon_and_decay_follow_the_gradient_and_the_rate() -> None:
    # arXiv:2505.01618 Table 1 for width (hidden: rate 1/m, epsilon 1/m, decay m); the readout's
    # epsilon in the multiplier form falls as its gradient, 1/m.
    rules = resolve(PARAMETERIZATIONS.get("mup"), ADAM, width=256, base_width=64)
    hidden, output, fixed = rules[Role.HIDDEN], rules[Role.OUTPUT], rules[Role.FIXED]
    assert (hidden.learning_rate, hidden.epsilon, hidden.weight_decay) == (1 / 4, 1 / 4, 4)
    assert (output.multiplier, output.epsilon, output.init_std) == (1 / 4, 1 / 4, 1)
    assert hidden.init_std == 1 / 2
    assert fixed.epsilon == 1


def test_sp_has_one_rate_for_all() -> None:
    rules = resolve(PARAMETERIZATIONS.get("sp"), ADAM, width=256, base_width=64)
    assert {rule.learning_rate for rule in rules.values()} == {1.0}
    assert rules[Role.OUTPUT].init_std == 1 / 2
