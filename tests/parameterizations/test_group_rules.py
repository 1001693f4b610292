"""Sizes of tensors, and a group's numbers from its run's settings."""

import itertools
import json

import pytest

from hptransfer.parameterizations import (
    PARAMETERIZATIONS,
    RAW,
    BranchRule,
    BudgetRatio,
    GroupRule,
    Role,
    ShapePower,
    Sizes,
    alignment_of,
    memory,
    resolve,
    scaled,
    timescale,
)

GROWS = {
    Role.INPUT: (False, True),
    Role.HIDDEN: (True, True),
    Role.OUTPUT: (True, False),
    Role.VECTOR: (False, True),
    Role.FIXED: (False, False),
}
"""Growth of fan-in and fan-out by role."""
CONSTANTS = {
    "hidden": {"lr": 3.0, "init": 5.0, "multiplier": 7.0},
    "output": {"lr": 11.0, "init": 13.0, "multiplier": 17.0},
}


def test_a_setting_follows_by_a_factor_a_memory_or_a_timescale() -> None:
    assert scaled(0.1, 4.0) == 0.4
    assert scaled(64, 1) == 64
    assert type(scaled(64, 1)) is int
    assert scaled(0.95, memory(1.0)) == 0.95
    assert scaled(0.2, memory(1.0)) == 0.2  # unchanged, it is not clipped
    assert scaled(0.9, memory(4.0)) == pytest.approx(0.6)
    assert scaled(0.9, memory(9.0)) == 0.5
    assert scaled(0.99, memory(1e-6)) == 0.9999
    assert scaled(0.5, timescale(100)) == pytest.approx(0.02)
    assert scaled(0.0, timescale(100)) == 0.0


def test_a_groups_numbers_are_its_rule_times_its_roles_constants() -> None:
    settings = {"lr": 0.25, "weight_decay": timescale(100), "beta1": memory(4.0), "eps": 2.0}
    rule = GroupRule(role=Role.HIDDEN, settings=settings, init_std=0.5, output_multiplier=0.125)
    run = {"lr": 0.1, "weight_decay": 0.5, "beta1": 0.9, "eps": 1e-8, "other": 1.0}
    expected = {"lr": 0.075, "weight_decay": 0.02, "beta1": 0.6, "eps": 2e-8, "init_std": 2.5}
    assert rule.resolve(run, CONSTANTS) == pytest.approx({**expected, "output_multiplier": 0.875})
    shared = GroupRule.from_json({**rule.to_json(), "readout_multiplier": 0.25})
    assert shared.resolve(run, CONSTANTS)["readout_multiplier"] == 0.25 * 17
    assert GroupRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize("role", Role)
def test_sides_that_grow_in_a_role_are_its_sizes(role: Role) -> None:
    grows_in, grows_out = GROWS[role]
    sizes = Sizes.between(role, (96, 40), (24, 20))
    assert (sizes.fan_in, sizes.fan_out) == (4 if grows_in else 1, 2 if grows_out else 1)
    longest = {(True, True): 96 / 24, (True, False): 96 / 24, (False, True): 40 / 20, (False, False): 1}
    assert sizes.largest == longest[grows_in, grows_out]
    assert Sizes.between(role, (40, 96), (20, 24)).largest == {
        (True, True): 96 / 24, (True, False): 40 / 20, (False, True): 96 / 24, (False, False): 1
    }[grows_in, grows_out]  # fmt: skip
    assert (sizes.averaged, sizes.spread, sizes.inside, sizes.lookup) == (1, 1, False, False)
    marked = Sizes.between(role, (96, 40), (24, 20), inside=True, lookup=True)
    assert (marked.inside, marked.lookup) == (True, True)
    alike = Sizes.alike(role, 4.0)
    assert (alike.fan_in, alike.fan_out) == (4 if grows_in else 1, 4 if grows_out else 1)
    assert alike.largest == (4 if grows_in or grows_out else 1)
    assert (alike.inside, alike.lookup) == (False, False)
    assert Sizes.alike(role, 4.0, inside=True).inside


def test_a_power_of_sizes_is_the_product_of_their_powers() -> None:
    sizes = Sizes(fan_in=2.0, fan_out=3.0, largest=5.0, averaged=7.0, spread=11.0)
    for key in ("fan_in", "fan_out", "largest", "averaged", "spread"):
        assert sizes.to(ShapePower(**{key: 2.0})) == getattr(sizes, key) ** 2
    assert sizes.to(ShapePower(1.0, -1.0, 1.0, -1.0, 1.0)) == pytest.approx(2 / 3 * 5 / 7 * 11)
    assert Sizes().to(ShapePower(1.0, 2.0, 3.0, 4.0, 5.0)) == 1


def test_rate_times_coupled_decay_depends_on_the_budget_alone() -> None:
    table = PARAMETERIZATIONS.get("mup")
    for ratio, width in itertools.product((1.0, 4.0), (1.0, 8.0)):
        budget = BudgetRatio(rule="sqrt", batch=ratio)
        rule = resolve(table, RAW.of_unit_gradients(), Role.HIDDEN, Sizes.alike(Role.HIDDEN, width), budget=budget)
        assert (rule.learning_rate, rule.weight_decay) == (ratio**0.5 / width, ratio**0.5 * width)
        assert rule.learning_rate * rule.weight_decay == ratio
    inside = Sizes.alike(Role.HIDDEN, 8.0, inside=True)
    deep = resolve(table, RAW.of_unit_gradients(), Role.HIDDEN, inside, branch=BranchRule(alpha=0.5, ratio=4.0))
    assert (deep.learning_rate, deep.weight_decay) == (4**-0.5 / 8, 8)


def test_without_a_rule_depth_batch_and_tokens_change_nothing() -> None:
    assert (BranchRule().factor, BranchRule().ratio, BranchRule(ratio=4.0).factor) == (1, 1, 1)
    assert (BudgetRatio(batch=4.0).ratio, BudgetRatio(rule="sqrt").ratio, BudgetRatio(rule="complete").ratio) == (
        1,
    ) * 3
    assert BudgetRatio(rule="complete", batch=8.0, tokens=2.0).ratio == 4


@pytest.mark.parametrize(("name", "lookup", "power"), [("umup", True, -0.5), ("umup", False, 0.0), ("mup", True, 0.0)])
def test_embeddings_have_the_rule_of_a_parameterization_that_has_one(name: str, lookup: bool, power: float) -> None:
    sizes = Sizes.between(Role.INPUT, (1, 4), (1, 1), lookup=lookup)
    rule = resolve(PARAMETERIZATIONS.get(name), RAW.of_unit_gradients(), Role.INPUT, sizes)
    assert rule.learning_rate == 4**power


@pytest.mark.parametrize(
    ("value", "alignment"), [("default", None), ("full", 1), ("none", 0.5), (0.5, 0.5), (0.7, 0.7), (1, 1)]
)
def test_alignments_at_both_bounds_are_taken(value: object, alignment: float | None) -> None:
    assert alignment_of(value, "run.alignment") == alignment
