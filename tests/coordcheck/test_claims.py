"""Claims of docs/parameterizations.md, measured again; expected failures on every model."""

import itertools
from pathlib import Path

import pytest

from docs.generators.measured_checks import (
    LEGEND,
    PASSES_ANYWAY,
    MeasuredCheck,
    claims,
    read_measured,
    write_measured,
)
from hptransfer.coordcheck.check_config import CheckConfig, compose_check
from hptransfer.coordcheck.defaults import CUBIC_OPTIMIZERS
from hptransfer.coordcheck.judgement import LOOSE, TIGHT, WIDE, Check
from hptransfer.coordcheck.run import run_check
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS
from tests.support.helpers import ROOT
from tests.support.slow import slow_except

MEASURED = {row.key: row for row in read_measured(ROOT / "docs" / "coordinate_checks.csv")}
# Slopes of one machine and of another: other orders of summation, over a few steps.
NOISE = 0.05


FAST = [("mlp", "adamw", "mup"), ("resmlp", "sgd", "mup")]


def check(model: str, optimizer: str, parameterization: str, *settings: str) -> Check:
    choices = [f"run/model={model}", f"run/optimizer={optimizer}", f"run.parameterization={parameterization}"]
    found: Check = run_check(compose_check([*choices, *settings]))
    return found


@pytest.mark.parametrize(("model", "optimizer", "parameterization"), slow_except(claims(), *FAST))
def test_what_is_claimed_passes(model: str, optimizer: str, parameterization: str) -> None:
    found = check(model, optimizer, parameterization)
    assert found.fails == []
    assert found.steepest()[0] == pytest.approx(MEASURED[model, optimizer, parameterization].slope, abs=NOISE)


def test_mup_is_claimed_with_every_optimizer_on_mlp_and_transformer() -> None:
    claimed = set(claims())
    for optimizer in OPTIMIZERS.names():
        assert {("mlp", optimizer, "mup"), ("transformer", optimizer, "mup")} <= claimed


@pytest.mark.parametrize("optimizer", slow_except(OPTIMIZERS.names(), "adamw", "lion", "sgd"))
def test_sp_fails_with_every_optimizer_and_is_expected_to(optimizer: str) -> None:
    found = check("mlp", optimizer, "sp", "seeds=2", "steps=2")
    assert not found.passed
    assert "one learning rate for all" in found.expected


@pytest.mark.parametrize(
    ("optimizer", "model"),
    slow_except(itertools.product(["adamw", "sgd"], MODELS.names()), ("adamw", "resmlp"), ("sgd", "vit")),
)
def test_sp_fails_on_every_model(optimizer: str, model: str) -> None:
    assert not check(model, optimizer, "sp", "seeds=2", "steps=2").passed


def test_the_file_has_every_combination() -> None:
    known = {(m, o, p) for m in MODELS.names() for o in OPTIMIZERS.names() for p in PARAMETERIZATIONS.names()}
    assert set(MEASURED) == known, "run: python benchmarks/coordinate_checks.py --missing"


def test_what_was_measured_are_the_changes_of_as_many_steps_as_a_check_takes() -> None:
    steps = CheckConfig().steps
    changes = [int(row.where.rpartition("change ")[2]) for row in MEASURED.values() if row.where]
    assert max(changes) == steps
    found = check("mlp", "adamw", "mup", "widths=[8,16,32]", "seeds=1")
    assert found.columns == ["start", *(f"change {step + 1}" for step in range(steps))]
    assert f"over its first {steps} steps" in " ".join(LEGEND.split())


def test_the_legend_says_what_passes() -> None:
    words = " ".join(LEGEND.split())
    assert f"At most {TIGHT} passes on the MLP at widths of {WIDE} and more, {LOOSE} elsewhere" in words
    for row in MEASURED.values():
        if row.slope is not None and row.key[2] != "umup":
            tolerance = TIGHT if row.key[0] == "mlp" and row.key[1] not in CUBIC_OPTIMIZERS else LOOSE
            assert row.passed == (abs(row.slope) <= tolerance + 0.005), row


def test_what_passes_though_theory_expects_a_failure_is_marked_so() -> None:
    for row in MEASURED.values():
        assert row.mark.endswith(" e") == (row.passed and bool(row.expected) and not row.claimed)
        if row.mark.endswith(" e"):
            assert (row.model, row.parameterization) in PASSES_ANYWAY, "say why"


def test_every_claim_of_the_file_passes() -> None:
    assert [key for key in claims() if not MEASURED[key].passed] == []


def test_the_file_is_what_is_read_from_it(tmp_path: Path) -> None:
    write_measured(tmp_path / "again.csv", MEASURED.values())
    assert (tmp_path / "again.csv").read_text() == (ROOT / "docs" / "coordinate_checks.csv").read_text()


@pytest.mark.parametrize(
    ("passed", "claimed", "expected", "mark"),
    [
        (True, True, "", "**P**"),
        (True, False, "", "p"),
        (True, False, "theory", "e"),
        (False, True, "", "**F**"),
        (False, False, "theory", "x"),
        (False, False, "", "f"),
    ],
)
def test_marks(passed: bool, claimed: bool, expected: str, mark: str) -> None:
    row = MeasuredCheck(
        model="mlp" if claimed else "vit",
        optimizer="kfac",
        parameterization="mup",
        slope=0.0,
        where="outputs, change 1",
        passed=passed,
        expected=expected,
    )
    assert row.mark == f"+0.00 {mark}"


@pytest.mark.parametrize("model", slow_except(MODELS.names(), "mlp", "vit"))
def test_a_readout_that_starts_at_zero_answers_zero(model: str) -> None:
    """The outputs' first column is zero, unlike with a random readout."""
    zero, random = (
        check(model, "sgd", "mup", f"run.model.zero_readout={choice}", "seeds=1", "steps=1") for choice in (True, False)
    )
    for found, starts in ((zero, False), (random, True)):
        (row,) = (row for row in found.rows if row.name == "outputs")
        assert [values[0] > 1e-200 for values in row.values] == [starts] * 3
