"""The formula against every published or checked cell, and its symmetry."""

import itertools

import pytest

from hptransfer import parameterizations as laws
from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import (
    FULL_ALIGNMENT,
    NO_ALIGNMENT,
    PARAMETERIZATIONS,
    BranchRule,
    BudgetRatio,
    Role,
    Sizes,
    TensorRule,
    alignment_of,
    resolve,
    scaled,
)

IN, HID, OUT, VEC, FIX = Role
LAWS = {
    "SGD": laws.RAW,
    "Adam": laws.ENTRYWISE,
    "AF": laws.RELATIVE,
    "Mu1": laws.SPECTRAL,
    "MuR": laws.SPECTRAL_RMS,
    "Sh": laws.SPECTRAL,
    "KF": laws.INVERSE_CURVATURE,
}
COLUMNS = ("mult", "var", *LAWS, "eps", "lam")
HALF = 1 / 2

# Powers of the width, in the order of COLUMNS. Sources: arXiv:2203.03466, Table 3 (mult, var, SGD, Adam) and its
# readout-multiplier form (the mup package); 2011.14522 (square-root form); 2407.05872 (SP, NTK, mean field). The other
# columns are derived for the same update sizes and were checked against measured slopes of single steps.
WIDTH = {
    "mup_table3": {
        IN: (0, 0, 1, 0, 0, HALF, 0, HALF, 0, -1, 0),
        HID: (0, -1, 0, -1, -HALF, 0, -HALF, 0, 0, -1, 1),
        OUT: (0, -2, -1, -1, 0, -HALF, -1, -HALF, 0, 0, 1),
        VEC: (0, 0, 1, 0, 0, None, None, None, None, -1, 0),
        FIX: (0, 0, 0, 0, 0, None, None, None, None, 0, 0),
    },
    "mup": {
        IN: (0, 0, 1, 0, 0, HALF, 0, HALF, 0, -1, 0),
        HID: (0, -1, 0, -1, -HALF, 0, -HALF, 0, 0, -1, 1),
        OUT: (-1, 0, 1, 0, 0, HALF, 0, HALF, 0, -1, 0),
        VEC: (0, 0, 1, 0, 0, None, None, None, None, -1, 0),
        FIX: (0, 0, 0, 0, 0, None, None, None, None, 0, 0),
    },
    "mup_sqrt": {
        IN: (HALF, -1, 0, -HALF, 0, 0, -HALF, 0, 0, -HALF, HALF),
        HID: (0, -1, 0, -1, -HALF, 0, -HALF, 0, 0, -1, 1),
        OUT: (-HALF, -1, 0, -HALF, 0, 0, -HALF, 0, 0, -HALF, HALF),
        VEC: (0, 0, 1, 0, 0, None, None, None, None, -1, 0),
        FIX: (0, 0, 0, 0, 0, None, None, None, None, 0, 0),
    },
    "mfp": {
        IN: (0, 0, 1, 0, 0, HALF, 0, HALF, 0, -1, 0),
        HID: (-HALF, 0, 1, -HALF, -HALF, HALF, 0, HALF, 0, -3 / 2, HALF),
        OUT: (-1, 0, 1, 0, 0, HALF, 0, HALF, 0, -1, 0),
        VEC: (0, 0, 1, 0, 0, None, None, None, None, -1, 0),
        FIX: (0, 0, 0, 0, 0, None, None, None, None, 0, 0),
    },
}
# arXiv:2407.05872: learning rate of (input, hidden, output) by (optimizer, alignment).
EVERETT = {
    "sp": {
        ("SGD", FULL_ALIGNMENT): (HALF, -HALF, -1),
        ("SGD", NO_ALIGNMENT): (HALF, 0, -HALF),
        ("Adam", FULL_ALIGNMENT): (0, -1, -1),
        ("Adam", NO_ALIGNMENT): (0, -HALF, -HALF),
        ("AF", FULL_ALIGNMENT): (0, -HALF, -HALF),
        ("AF", NO_ALIGNMENT): (0, 0, 0),
        ("Mu1", FULL_ALIGNMENT): (HALF, 0, -HALF),
        ("MuR", FULL_ALIGNMENT): (0, -HALF, -1),
        ("Sh", FULL_ALIGNMENT): (HALF, 0, -HALF),
    },
    "ntk": {
        ("SGD", FULL_ALIGNMENT): (HALF, HALF, 0),
        ("SGD", NO_ALIGNMENT): (HALF, 1, HALF),
        ("Adam", FULL_ALIGNMENT): (0, -HALF, -HALF),
        ("Adam", NO_ALIGNMENT): (0, 0, 0),
        ("AF", FULL_ALIGNMENT): (0, -HALF, -HALF),
        ("AF", NO_ALIGNMENT): (0, 0, 0),
        ("Mu1", FULL_ALIGNMENT): (HALF, HALF, 0),
        ("MuR", FULL_ALIGNMENT): (0, 0, -HALF),
        ("Sh", FULL_ALIGNMENT): (HALF, HALF, 0),
    },
    "mup_sqrt": {
        ("SGD", FULL_ALIGNMENT): (0, 0, 0),
        ("SGD", NO_ALIGNMENT): (-HALF, 0, HALF),
        ("Adam", FULL_ALIGNMENT): (-HALF, -1, -HALF),
        ("Adam", NO_ALIGNMENT): (-HALF, -HALF, 0),
        ("AF", FULL_ALIGNMENT): (0, -HALF, 0),
        ("AF", NO_ALIGNMENT): (0, 0, 0),
    },
    "mfp": {
        ("SGD", FULL_ALIGNMENT): (1, 1, 1),
        ("SGD", NO_ALIGNMENT): (HALF, 1, 3 / 2),
        ("Adam", FULL_ALIGNMENT): (0, -HALF, 0),
        ("Adam", NO_ALIGNMENT): (0, 0, HALF),
        ("AF", FULL_ALIGNMENT): (0, -HALF, 0),
        ("AF", NO_ALIGNMENT): (0, 0, 0),
    },
}
INIT = {  # arXiv:2407.05872: (multiplier, variance) of input, hidden, output; power of epsilon of the four
    "sp": ((0, 0), (0, -1), (0, -1), (-HALF, -HALF, 0, -HALF)),
    "ntk": ((0, 0), (-HALF, 0), (-HALF, 0), (-HALF, -1, -HALF, -HALF)),
}


@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
def test_every_role_has_a_row(name: str) -> None:
    assert set(PARAMETERIZATIONS.get(name).rows) == set(Role)


@pytest.mark.parametrize(("name", "role"), [(name, role) for name in WIDTH for role in Role])
def test_the_formula_agrees_with_the_width_table(name: str, role: Role) -> None:
    table = PARAMETERIZATIONS.get(name)
    cells = dict(zip(COLUMNS, WIDTH[name][role], strict=True))
    found = {
        "mult": table.multiplier(role).total,
        "var": 2 * table.init_std(role).total,
        **{column: table.learning_rate(role, law).total for column, law in LAWS.items()},
        "eps": table.epsilon(role).total,
        "lam": -table.learning_rate(role, laws.ENTRYWISE).total,
    }
    for column, power in cells.items():
        assert power is None or found[column] == power, column


@pytest.mark.parametrize(("name", "law", "alignment"), [(name, *key) for name in EVERETT for key in EVERETT[name]])
def test_the_formula_agrees_with_the_alignment_prescriptions(name: str, law: str, alignment: float) -> None:
    table = PARAMETERIZATIONS.get(name)
    found = tuple(table.learning_rate(role, LAWS[law], alignment).total for role in (IN, HID, OUT))
    assert found == EVERETT[name][law, alignment]


@pytest.mark.parametrize("name", INIT)
def test_init_and_epsilon_of_sp_and_ntk(name: str) -> None:
    table = PARAMETERIZATIONS.get(name)
    for role, (multiplier, variance) in zip((IN, HID, OUT), INIT[name], strict=False):
        assert (table.multiplier(role).total, 2 * table.init_std(role).total) == (multiplier, variance)
    assert tuple(table.epsilon(role, FULL_ALIGNMENT).total for role in (IN, HID, OUT, VEC)) == INIT[name][3]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("role", [IN, HID, OUT])
def test_the_forms_of_mup_are_images_of_each_other(law: str, role: Role) -> None:
    """Shifted exponents scale rates by n^(theta * (1 + gradient)).

    The shift is a + theta, b - theta. Rates of relative steps do not change (symmetry).
    """
    form, other = PARAMETERIZATIONS.get("mup_table3"), PARAMETERIZATIONS.get("mup_sqrt")
    theta = other.rows[role].a - form.rows[role].a
    assert form.rows[role].b - other.rows[role].b == theta
    moved = other.learning_rate(role, LAWS[law]).total - form.learning_rate(role, LAWS[law]).total
    assert moved == theta * (1 + LAWS[law].gradient - LAWS[law].weight)


def test_a_measured_alignment_lies_between_the_two() -> None:
    table = PARAMETERIZATIONS.get("sp")
    assert table.learning_rate(HID, laws.ENTRYWISE, 0.7).total == -0.7
    assert table.learning_rate(HID, laws.SPECTRAL, 0.7).total == 0  # its gain is its own


def test_sp_has_one_rate_for_all_unless_an_alignment_is_given() -> None:
    table = PARAMETERIZATIONS.get("sp")
    for law, role in itertools.product(LAWS.values(), Role):
        assert table.learning_rate(role, law).total == 0
        assert table.epsilon(role).total == 0


def test_sizes_that_grow_unequally_go_by_their_own_ratio() -> None:
    # arXiv:2310.17813: SGD fan_out/fan_in, Adam 1/fan_in, spectral sqrt(fan_out/fan_in); epsilon 1/fan_out.
    table = PARAMETERIZATIONS.get("mup_table3")
    sizes = Sizes(fan_in=4, fan_out=16, largest=16)
    expected = {"SGD": 4, "Adam": 1 / 4, "Mu1": 2, "MuR": 2 / 4, "Sh": 2}
    for law, rate in expected.items():
        assert resolve(table, LAWS[law], HID, sizes).learning_rate == rate, law
    assert resolve(table, laws.ENTRYWISE, HID, sizes).epsilon == 1 / 16


@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
@pytest.mark.parametrize("law", LAWS)
def test_nothing_changes_at_the_base(name: str, law: str) -> None:
    for role in Role:
        rule = resolve(PARAMETERIZATIONS.get(name), LAWS[law], role, Sizes.alike(role, 1, inside=True))
        assert rule == TensorRule(role=role)


DEPTH = {  # power of the depth for tensors in blocks at alpha = 1/2 and 1: arXiv:2505.01618, Table 1 (Adam); derived
    "Adam": (-HALF, 0),
    "SGD": (0, 1),
    "Mu1": (-HALF, 0),
    "KF": (-1, -1),
}


@pytest.mark.parametrize("law", DEPTH)
@pytest.mark.parametrize(("index", "alpha"), [(0, 0.5), (1, 1.0)])
def test_depth_rules(law: str, index: int, alpha: float) -> None:
    table, ratio = PARAMETERIZATIONS.get("mup"), 16.0
    for role, inside in itertools.product((HID, VEC), (True, False)):
        sizes = Sizes.alike(role, 1, inside=inside)
        rule = resolve(table, LAWS[law], role, sizes, branch=BranchRule(alpha=alpha, ratio=ratio))
        assert rule.learning_rate == (ratio ** DEPTH[law][index] if inside else 1)
        assert rule.epsilon == (ratio**-alpha if inside else 1)
        assert (rule.init_std, rule.weight_decay) == (1, 1)


def test_a_depth_rule_can_leave_rates_alone_and_alpha_zero_is_no_rule() -> None:
    table, sizes = PARAMETERIZATIONS.get("mup"), Sizes.alike(HID, 1, inside=True)
    assert resolve(table, laws.RAW, HID, sizes, branch=BranchRule(alpha=1, rates=False, ratio=4)).learning_rate == 1
    assert resolve(table, laws.RAW, HID, sizes, branch=BranchRule(alpha=0, ratio=4)) == TensorRule(role=HID)
    assert BranchRule(alpha=0.5, ratio=4).factor == 0.5


def test_budget_rules_move_rates_memories_epsilon_and_decay_together() -> None:
    # arXiv:2512.22382, Table 1: four times the batch, twice the tokens.
    budget = BudgetRatio(rule="complete", batch=4, tokens=2)
    rule = resolve(PARAMETERIZATIONS.get("mup"), laws.ENTRYWISE, VEC, Sizes(), budget=budget)
    assert rule.learning_rate == rule.weight_decay == 2**0.5
    assert rule.epsilon == 2**-0.5
    assert 1 - scaled(0.95, budget.memory) == pytest.approx(0.1)
    # arXiv:2205.10287: the square-root rule knows the batch alone.
    assert BudgetRatio(rule="sqrt", batch=4, tokens=2).ratio == 4
    assert scaled(0.9, BudgetRatio(rule="none", batch=4, tokens=2).memory) == 0.9
    assert scaled(0.9, BudgetRatio(rule="sqrt", batch=1000).memory) == 0.5


@pytest.mark.parametrize(("value", "found"), [("default", None), ("full", 1.0), ("none", 0.5), (0.7, 0.7), (1, 1.0)])
def test_alignments(value: object, found: float | None) -> None:
    assert alignment_of(value, "run.alignment") == found


@pytest.mark.parametrize("value", ["half", 0.4, 1.2, True, None])
def test_other_alignments_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"run.alignment must be default, full, none or a number from 0.5 to 1"):
        alignment_of(value, "run.alignment")
