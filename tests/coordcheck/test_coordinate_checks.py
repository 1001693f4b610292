"""Coordinate checks: slopes of theory for passing and failing combinations."""

import dataclasses
import itertools

import pytest

from hptransfer.coordcheck.activations import coordinate_check, depth_check
from hptransfer.coordcheck.judgement import LOOSE, OUTPUTS, STREAM, TIGHT, Check
from hptransfer.coordcheck.layer_updates import alignment_check, one_layer_check, spectral_check
from hptransfer.coordcheck.whole_training import wider_check
from hptransfer.core.errors import ConfigError
from hptransfer.training.config import Base, BranchConfig, RunConfig
from hptransfer.training.optimizers import OPTIMIZERS
from tests.support.settings import of_model
from tests.support.slow import slow_except

WIDTHS = (256, 512, 1024)


def run_of(parameterization: str, optimizer: str = "adamw", model: str = "mlp", **options: object) -> RunConfig:
    run = of_model(model, depth=3, **options)
    return dataclasses.replace(
        run,
        parameterization=parameterization,
        optimizer=OPTIMIZERS.get(optimizer)(name=optimizer),
        base=Base(width=64),
        batch=64 if run.sequence == 1 else 4,
        tokens=100_000,
    )


def slope(check: Check, name: str, column: str = "change 1") -> float:
    (row,) = (row for row in check.rows if row.name == name)
    return row.slopes[check.columns.index(column)]


@pytest.mark.parametrize(
    ("form", "optimizer"),
    slow_except(
        itertools.product(["mup", "mup_table3", "mup_sqrt", "mfp"], ["adamw", "sgd"]),
        ("mup", "sgd"),
        ("mup_table3", "adamw"),
        ("mfp", "sgd"),
    ),
)
def test_every_form_of_mup_is_flat(form: str, optimizer: str) -> None:
    assert coordinate_check(run_of(form, optimizer), widths=WIDTHS, steps=2).fails == []


def test_mup_outputs_shrink_at_the_start_as_they_should() -> None:
    assert slope(coordinate_check(run_of("mup"), widths=WIDTHS, steps=1), OUTPUTS, "start") == pytest.approx(
        -0.5, abs=0.1
    )


# Slopes of the first change for (first layer, hidden layer, outputs): measured elsewhere, on other data.
KNOWN = {
    ("ntk", "adamw"): (0.01, 0.01, 0.52),
}


@pytest.mark.parametrize(("name", "optimizer"), KNOWN)
def test_first_changes_of_what_does_not_transfer(name: str, optimizer: str) -> None:
    run = run_of(name, optimizer)
    run.model.depth = 2
    check = coordinate_check(run, widths=WIDTHS, steps=1)
    found = [slope(check, row) for row in ("layers.0", "layers.1", OUTPUTS)]
    assert not check.passed
    assert check.expected
    assert found == pytest.approx(KNOWN[name, optimizer], abs=0.2)


def test_sp_with_one_adam_rate_grows_with_width_and_is_expected_to() -> None:
    check = coordinate_check(run_of("sp"), widths=WIDTHS, steps=2)
    assert slope(check, OUTPUTS) > 0.5
    assert "one learning rate for all" in check.expected


def test_the_one_layer_check_names_the_layer_with_the_wrong_rule() -> None:
    """Under a form that needs other Adam rates, only hidden layers fail."""
    flat = one_layer_check(run_of("mup_table3"), widths=WIDTHS)
    assert flat.passed
    run = run_of("mup_table3")
    run.alignment = "none"  # which Adam's updates are not
    check = one_layer_check(run, widths=WIDTHS)
    assert slope(check, "layers.0") == pytest.approx(0, abs=0.1)
    assert slope(check, "layers.1") == pytest.approx(0.5, abs=0.15)
    assert not check.passed


@pytest.mark.parametrize(("widths", "tolerance", "alignment"), [(WIDTHS, TIGHT, 0.85), ((64, 128, 256), LOOSE, 0.75)])
def test_a_layer_that_is_a_little_off_fails(widths: tuple[int, ...], tolerance: float, alignment: float) -> None:
    """Rates fall too slowly, by a power of 1 - alignment.

    This exceeds the tolerance by less than a factor of two.
    """
    run = run_of("mup")
    flat = one_layer_check(run, widths=widths)
    assert flat.fails == []
    assert flat.tolerance == tolerance
    run.alignment = alignment
    check = one_layer_check(run, widths=widths)
    assert slope(check, "layers.1") == pytest.approx(1 - alignment, abs=0.04)
    assert any(fail.startswith("layers.1,") for fail in check.fails)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "rates", "optimizer", "expected"),
    [
        (0.0, True, "adamw", 0.96),
        (0.5, True, "adamw", -0.03),
        (0.5, False, "adamw", 0.45),
        (1.0, True, "adamw", -0.08),
        (0.5, True, "sgd", -0.12),
        (1.0, False, "sgd", -1.16),
        (1.0, True, "sgd", -0.17),
    ],
)
def test_how_the_stream_moves_with_depth(alpha: float, rates: bool, optimizer: str, expected: float) -> None:
    """Compare with slopes measured on normed residual MLPs.

    Their depths are 8 to 64. Theory: 1 - alpha (1 + SGD) + the rate's power.
    """
    run = run_of("mup", optimizer, model="resmlp", matrices=2, norm=True)
    run.model.width = 64
    run.branch = BranchConfig(alpha=alpha, rates=rates)
    run.base.depth = 8
    run.constants.input.lr = run.constants.output.lr = 1e-6  # the blocks alone
    check = depth_check(run, depths=(8, 16, 32, 64), steps=2)
    assert slope(check, STREAM, "change 2") == pytest.approx(expected, abs=0.25)


def test_without_a_depth_rule_a_depth_check_fails_as_expected() -> None:
    run = run_of("mup", model="resmlp")
    run.base.depth = 4
    for alpha, label in ((0.0, "without a depth rule"), (0.5, "")):
        run.branch = BranchConfig(alpha=alpha)
        check = depth_check(run, depths=(4, 8, 16), steps=2, seeds=1)
        assert check.expected.startswith(label)
        assert bool(check.expected) == bool(label)


def test_a_depth_check_needs_residual_branches() -> None:
    with pytest.raises(ConfigError, match="check=depth: run/model=mlp has no residual branches"):
        depth_check(run_of("mup"), depths=(2, 4, 8))


@pytest.mark.slow
def test_spectral_norms_keep_their_size_under_mup_alone() -> None:
    assert spectral_check(run_of("mup_table3"), widths=WIDTHS, seeds=2).passed
    sp = spectral_check(run_of("sp"), widths=WIDTHS, seeds=1)
    assert slope(sp, "layers.1", "change 4") > 0.5
    assert not sp.passed


def test_adams_updates_are_aligned_with_inputs_that_grow() -> None:
    check = alignment_check(run_of("mup"), widths=WIDTHS, steps=2, seeds=1)
    assert slope(check, "layers.1", "step 2") > 0.8
    assert slope(check, "layers.0", "step 2") == pytest.approx(0, abs=0.1)  # whose fan-in does not grow
    assert check.passed  # it is a probe: nothing is judged
    assert not any(judged for row in check.rows for judged in row.judged)
    assert "0.5 means no alignment, 1 full alignment" in check.reading


def test_alignment_does_not_depend_on_the_form_of_a_parameterization() -> None:
    """The place of the multiplier is a matter of form.

    The readout's updates are equally aligned in all forms.
    """
    last = f"layers.{run_of('mup').model.depth}"
    forms = ("mup", "mup_table3", "mup_sqrt", "mfp")
    found = [alignment_check(run_of(form), widths=WIDTHS, steps=2, seeds=1) for form in forms]
    slopes = [slope(check, last, "step 2") for check in found]
    assert slopes == pytest.approx(slopes[:1] * 4, abs=0.05)
    assert slopes[0] > 0.6


@pytest.mark.slow
def test_wider_is_better_under_mup_and_not_under_sp() -> None:
    mup, sp = (run_of(name) for name in ("mup", "sp"))
    for run in (mup, sp):
        run.tokens = 64 * 120
    assert wider_check(mup, widths=(32, 64, 128), seeds=4).passed
    sp.optimizer.lr = 2.0**-4
    check = wider_check(sp, widths=(64, 256, 512), seeds=3)
    assert not check.passed
    assert "is worse than" in check.fails[0]


def test_sp_with_one_sgd_rate_starves_its_first_layer_and_blows_up_its_outputs() -> None:
    check = coordinate_check(run_of("sp", "sgd"), widths=WIDTHS, steps=1)
    assert slope(check, "layers.0") == pytest.approx(-0.5, abs=0.15)
    assert slope(check, OUTPUTS) > 0.4


@pytest.mark.parametrize("optimizer", slow_except(["adamw", "sgd", "lion", "adafactor", "adam_atan2"], "adamw"))
def test_a_transformer_whose_readout_starts_at_zero_is_flat_under_mup(optimizer: str) -> None:
    run = run_of("mup", optimizer, model="transformer", zero_readout=True)
    run.model.depth = 2
    assert coordinate_check(run, widths=(128, 256, 512), steps=3, seeds=3).fails == []


@pytest.mark.slow
def test_a_transformers_first_readout_is_a_finite_width_effect() -> None:
    """A random readout's outputs shrink as n^-1/2.

    The effect is smaller in wider models.
    """
    run = run_of("mup", model="transformer")
    run.model.depth = 2
    narrow = coordinate_check(run, widths=(64, 128, 256), steps=1, seeds=6)
    wide = coordinate_check(run, widths=(256, 512, 1024), steps=1, seeds=2)
    assert slope(narrow, OUTPUTS) < -0.2
    assert slope(narrow, OUTPUTS) + 0.08 < slope(wide, OUTPUTS) < 0.1


def test_sp_is_not_flat_on_a_transformer_either() -> None:
    run = run_of("sp", model="transformer", zero_readout=True)
    run.model.depth = 2
    assert slope(coordinate_check(run, widths=(128, 256, 512), steps=1, seeds=2), OUTPUTS) > 0.5


def test_what_is_nothing_is_zero_and_not_drawn() -> None:
    run = of_model("mlp", zero_readout=True)
    check = coordinate_check(run, widths=[32, 64], steps=1, seeds=1)
    outputs = next(row for row in check.rows if row.name == "outputs")
    assert [values[0] for values in outputs.values] == [0.0, 0.0]
    assert all(values[1] > 1e-6 for values in outputs.values)
