"""Does the optimum stay? The classic sweeps through the tool's own path: a sweep file, its trials, and the law."""

from pathlib import Path

import pytest
from rich.console import Console

from hptransfer.analysis.pipeline import analyze_run
from hptransfer.config.compose import compose
from hptransfer.core.io import read_json
from hptransfer.planning.plan import make_plan
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.session import session
from tests.support.helpers import INLINE


def exponent(runs: Path, sweep: str, *overrides: str) -> dict[str, float]:
    """Exponent of the one tuned rate over the one axis, with its interval, as a finished sweep reports it."""
    plan = make_plan(compose(sweep, [*overrides, *INLINE, "launcher.stack=16", f"runs={runs}"]))
    with session(plan, Console(quiet=True)) as open_session:
        open_session.train(TrialSet.sweep(plan))
    analyze_run(plan.config.folder)
    (tuned,) = read_json(plan.config.folder.path / "fit.json")["hyperparameters"].values()
    (found,) = tuned["exponents"].values()
    return dict(found)


# A prototype measured +0.03 (muP), -0.67 (SP, one rate) and -0.04 (SP, a rate a layer) over widths 32 to 512.
TEACHER = {
    "mup": ["run.parameterization=mup"],
    "sp": ["run.parameterization=sp"],
    "sp-full": ["run.parameterization=sp", "run.alignment=full"],
}
SMALL = (
    "grid.width.values=[32,64,128,256]",
    "target.width=512",
    "space.lr.count=7",
    "space.lr.low=0.00390625",
    "seeds=1",
)
SMALLEST = ("grid.width.values=[32,64,256]", *SMALL[1:])


def assert_teacher_slope(rule: str, found: dict[str, float]) -> None:
    if rule == "sp":
        assert found["value"] < -0.4
        assert found["high"] < -0.15
    else:
        assert abs(found["value"]) < 0.15


@pytest.mark.parametrize("rule", ["mup", "sp"])
def test_adams_rate_stays_from_one_width_to_another_under_mup_and_not_under_sp(rule: str, tmp_path: Path) -> None:
    assert_teacher_slope(rule, exponent(tmp_path, "teacher_width", *SMALLEST, *TEACHER[rule]))


@pytest.mark.slow
@pytest.mark.parametrize("rule", TEACHER)
def test_adams_rate_stays_over_width_under_mup_and_not_under_sp(rule: str, tmp_path: Path) -> None:
    assert_teacher_slope(rule, exponent(tmp_path, "teacher_width", *SMALL, *TEACHER[rule]))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", TEACHER)
def test_adams_rate_stays_over_width_in_full(rule: str, tmp_path: Path) -> None:
    assert_teacher_slope(rule, exponent(tmp_path, "teacher_width", *TEACHER[rule]))


def assert_depth_slope(alpha: str, found: dict[str, float]) -> None:
    if alpha == "0":
        assert found["value"] < -0.25
        assert found["high"] < -0.1
    elif alpha == "1":
        assert abs(found["value"]) < 0.25
    else:  # its rates fall faster than two matrices a branch need
        assert 0 < found["value"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("alpha", ["0", "1"])
def test_the_rate_of_transformer_blocks_stays_over_depth_under_completep_alone(alpha: str, tmp_path: Path) -> None:
    small = ("grid.depth.values=[2,16]", "seeds=1")
    found = exponent(tmp_path, "transformer_depth", *small, f"run.branch.alpha={alpha}")
    assert_depth_slope(alpha, found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("alpha", ["0", "0.5", "1"])
def test_the_rate_of_transformer_blocks_over_depth_in_full(alpha: str, tmp_path: Path) -> None:
    assert_depth_slope(alpha, exponent(tmp_path, "transformer_depth", f"run.branch.alpha={alpha}"))


# Of the residual MLP: the sizes, and octaves of the best rate per octave of them, between two numbers.
DEPTHWISE = {
    ("sqrt_depth", "width"): ((64, 128, 256), (-0.25, 0.25)),
    ("sp", "width"): ((64, 128, 256), (-9.0, -0.4)),
    ("sqrt_depth", "depth"): ((3, 6, 12), (-0.25, 0.25)),
    ("mup", "depth"): ((6, 12, 24), (-9.0, -0.8)),
    ("inverse_depth", "depth"): ((3, 6, 24), (0.25, 9.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "axis"), DEPTHWISE)
def test_sgds_rate_stays_over_width_and_depth_under_one_over_root_depth_alone(
    rule: str, axis: str, tmp_path: Path
) -> None:
    """benchmarks/depthwise_transfer.py is the full form, of all three nets."""
    sizes, (low, high) = DEPTHWISE[rule, axis]
    other = {"width": "grid.depth.values=[6]", "depth": "grid.width.values=[64]"}[axis]
    grid = [other, f"grid.{axis}.values=[{','.join(map(str, sizes))}]"]
    found = exponent(tmp_path, "depthwise_transfer", f"rule={rule}", *grid, "seeds=8")
    assert low < found["value"] < high, found
