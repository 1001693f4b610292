"""Answers under changes that leave a sweep the same: within half an interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.bowls import TARGET, WIDTHS, Answer, Bowl, answer, power
from tests.support.slow import slow_except

SKEWED = Bowl(curvature=0.012, skew=0.4)
UNSTABLE = replace(SKEWED, diverges=lambda width: power()(width) + 3.3)


@dataclass(frozen=True)
class Case:
    """A table with the columns and options of its analysis.

    Attributes:
        unit: log2 of the unit of the first tuned column, relative to that of the unchanged table.
    """

    table: pd.DataFrame
    tune: tuple[str, ...] = ("lr",)
    scale: tuple[str, ...] = ("width",)
    target: dict[str, float] = field(default_factory=lambda: dict(TARGET))
    options: dict[str, Any] = field(default_factory=dict)
    unit: float = 0.0

    def answer(self, estimator: str) -> Answer:
        """Analyze the table."""
        options = {**self.options, "estimator": estimator}
        return answer(self.table, scale=self.scale, tune=self.tune, target=self.target, **options)


def one_tuned(density: int) -> Case:
    rates = tuple(np.arange(-10, -1, 1 / density))
    return Case(SKEWED.runs(rates=rates, noise=0.002))


def few_diverged(density: int) -> Case:
    """A sweep with diverged runs, half of them at a finite loss."""
    table = UNSTABLE.runs(rates=tuple(np.arange(-10, -1, 1 / density)), noise=0.002)
    diverged = np.flatnonzero(np.isinf(table["loss"]))[::2]
    table.loc[diverged, "loss"] = 7 + 0.3 * np.sin(np.arange(len(diverged)))
    return Case(table)


def two_tuned(density: int) -> Case:
    """The best rate rises with the batch size (a ridge)."""
    random, rows = np.random.default_rng(1), []
    for width in WIDTHS:
        best, best_b = power()(width), 6 + 0.1 * math.log2(width / 64)
        for x in np.arange(-9, -3.5, 1 / density):
            for b in np.arange(4, 8.5, 1 / density):
                p, q = x - best - 0.4 * (b - best_b), b - best_b
                excess = 0.012 * p**2 * (1 + 0.1 * p) + 0.01 * q**2
                loss = (2 + 2 * (width / 64) ** -0.3) * math.exp(excess + 0.002 * random.standard_normal())
                rows.append({"width": width, "lr": 2.0**x, "batch": 2.0**b, "loss": loss})
    return Case(pd.DataFrame(rows), tune=("lr", "batch"))


def steep(density: int) -> Case:
    """A steep response whose optimum moves."""
    bowl = Bowl(curvature=0.3, optimum=power(-0.5))
    return Case(bowl.runs(rates=tuple(np.arange(-8, -2.5, 1 / density)), noise=0.002))


def one_stray_run(density: int) -> Case:
    """One run that broke, near the optimum of the largest width."""
    table = SKEWED.runs(rates=tuple(np.arange(-9, -3.5, 1 / density)), noise=0.002)
    table.loc[(table["width"] == WIDTHS[-1]) & (table["lr"] == 2.0**-7), "loss"] *= 1.3
    return Case(table)


def near_a_ceiling(density: int) -> Case:
    """Losses stay near one ceiling at small widths and far from the best rate, as of models that hardly train."""
    rows, random = [], np.random.default_rng(2)
    for width, height in zip(WIDTHS, (0.02, 0.2, 0.5, 0.9), strict=True):
        for x in np.arange(-9, -3.5, 1 / density):
            gain = height * math.exp(-0.4 * (x - power()(width)) ** 2)
            rows.append(
                {"width": width, "lr": 2.0**x, "loss": 1000 * math.exp(0.001 * random.standard_normal() - gain)}
            )
    return Case(pd.DataFrame(rows))


LANDSCAPES: dict[str, Callable[[int], Case]] = {
    "one tuned": one_tuned,
    "few diverged": few_diverged,
    "two tuned": two_tuned,
    "steep": steep,
    "one stray run": one_stray_run,
    "near a ceiling": near_a_ceiling,
}


def multiplied(case: Case) -> Case:
    return replace(case, table=case.table.assign(loss=1000 * case.table["loss"]))


def in_other_units(case: Case) -> Case:
    table = case.table.assign(width=1e6 * case.table["width"], lr=1e3 * case.table["lr"])
    target = {"width": 1e6 * case.target["width"]}
    return replace(case, table=table, target=target, unit=math.log2(1e3))


def permuted(case: Case) -> Case:
    return replace(case, table=case.table.sample(frac=1, random_state=4).reset_index(drop=True))


def repeated(case: Case) -> Case:
    return replace(case, table=pd.concat([case.table.assign(seed=seed) for seed in (0, 1)], ignore_index=True))


def without_a_far_run(case: Case) -> Case:
    return replace(case, table=case.table.drop(index=_far(case)).reset_index(drop=True))


def with_a_far_run_diverged(case: Case) -> Case:
    table = case.table.copy()
    table.loc[_far(case), "loss"] = math.inf
    return replace(case, table=table)


def _far(case: Case) -> int:
    """The worst finite run of the second width at the largest rate that did not diverge."""
    table = case.table
    of_scale = table[table["width"] == WIDTHS[1]]
    of_scale = of_scale[of_scale["loss"] < 1.8 * of_scale["loss"].min()]
    at_largest = of_scale[of_scale["lr"] == of_scale["lr"].max()]
    return int(at_largest["loss"].idxmax())


def renamed(case: Case) -> Case:
    table = case.table.rename(columns={"lr": "temperature"})
    return replace(case, table=table, tune=("temperature", *case.tune[1:]), options={"prior": False})


def without_prior(case: Case) -> Case:
    return replace(case, options={"prior": False})


CHANGES = [
    *(multiplied, in_other_units, permuted, repeated, without_a_far_run, with_a_far_run_diverged),
    renamed,
]
ESTIMATORS = ("surface", "nested")
CASES = [(name, estimator) for name in LANDSCAPES for estimator in ESTIMATORS]
FAST = ("one tuned", "surface")


def assert_alike(before: Answer, after: Answer, unit: float = 0.0, share: float = 0.5) -> None:
    """Fail unless the answers of the first tuned column differ by less than a share of the interval."""
    moved = abs(after.center - unit - before.center)
    assert moved < share * before.width, (before.center, after.center - unit, before.width)
    assert 0.5 < after.width / before.width < 2


@pytest.mark.parametrize(
    ("name", "estimator"), slow_except(CASES, FAST, ("few diverged", "surface"), ("steep", "surface"))
)
def test_an_answer_hardly_depends_on_what_does_not_matter(name: str, estimator: str) -> None:
    case = LANDSCAPES[name](1)
    before, plain = case.answer(estimator), without_prior(case).answer(estimator)
    for change in CHANGES:
        changed = change(case)
        reference = plain if "prior" in changed.options else before
        assert_alike(reference, changed.answer(estimator), changed.unit)


# Nested fits parabolas along one hyperparameter at a time, through few runs of the coarser grid.
@pytest.mark.parametrize(
    ("name", "estimator"), slow_except([case for case in CASES if case != ("two tuned", "nested")], FAST)
)
def test_twice_as_many_values_give_the_same_answer(name: str, estimator: str) -> None:
    before, after = (LANDSCAPES[name](density).answer(estimator) for density in (1, 2))
    assert abs(after.center - before.center) < before.width / 2
    assert after.width < 1.2 * before.width


@pytest.mark.parametrize("change", [multiplied, in_other_units, permuted])
def test_units_and_order_do_not_matter_at_all(change: Callable[[Case], Case]) -> None:
    """In another unit the names mean the same, but not in losses that are no longer above one nat."""
    case = one_tuned(1)
    before, changed = case.answer("surface"), change(case)
    assert_alike(before, changed.answer("surface"), changed.unit, share=0.02)


def test_a_column_that_matters_does() -> None:
    """The control: rates of one scale that are off by an octave move the answer by more than that."""
    case = one_tuned(1)
    moved = case.table.copy()
    moved.loc[moved["width"] == WIDTHS[-1], "lr"] *= 2
    with pytest.raises(AssertionError):
        assert_alike(case.answer("surface"), replace(case, table=moved).answer("surface"))
