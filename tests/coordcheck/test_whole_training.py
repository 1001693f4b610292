"""Whole trainings over width: theory under muP; sp and ntk deviate."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hptransfer.coordcheck import whole_training as training_checks
from hptransfer.coordcheck.check_config import compose_check, own_settings
from hptransfer.coordcheck.judgement import Check
from hptransfer.coordcheck.run import run_check
from hptransfer.coordcheck.whole_training import VARIANCE_SLOPE_TOLERANCE
from hptransfer.training.config import RunConfig, run_from_json
from tests.support.slow import slow_except

RESMLP = ("check=convergence", "run/model=resmlp", "run/optimizer=sgd")
WIDTHS = (64, 128, 256)
DEPTH_RULE = ("run.branch.alpha=0.5", "run.base.depth=1")


def check(*overrides: str) -> Check:
    found: Check = run_check(compose_check(overrides))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_seeds_disagree_on_vanishes_under_mup(optimizer: str) -> None:
    found = check("check=convergence", f"run/optimizer={optimizer}", "widths=[64,128,256]")
    assert found.fails == []
    variance, distance = found.rows
    assert variance.slopes == pytest.approx([-1], abs=VARIANCE_SLOPE_TOLERANCE)
    assert distance.slopes[0] < -0.5


@pytest.mark.slow
def test_it_does_so_under_mup_with_a_depth_rule() -> None:
    assert check(*RESMLP, *DEPTH_RULE, "widths=[64,128,256]").fails == []


@pytest.mark.parametrize("parameterization", slow_except(["sp", "ntk"], "sp"))
def test_it_does_not_under_sp_and_ntk_and_is_expected_not_to(parameterization: str) -> None:
    found = check(*RESMLP, *DEPTH_RULE, f"run.parameterization={parameterization}", "widths=[64,128,256]")
    assert found.rows[0].slopes[0] > -0.5
    assert "variance over seeds of outputs, after training: slope" in found.fails[0]
    assert found.expected


def test_curves_that_do_not_approach_the_widest_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs follow theory; curves are given here, one per width."""
    run = run_from_json(compose_check(["check=convergence"]).run)

    def fails(*levels: float) -> list[str]:
        def trained(run: RunConfig, seeds: int, examples: Tensor) -> tuple[NDArray[np.float64], Tensor]:
            outputs = torch.randn(seeds, 500, generator=torch.Generator().manual_seed(0)) * run.model.width**-0.5
            return np.full((10, seeds), levels[WIDTHS.index(run.model.width)]), outputs

        monkeypatch.setattr(training_checks, "train_seeds", trained)
        return training_checks.convergence_check(run, widths=WIDTHS, seeds=4).fails

    assert fails(1.5, 1.2, 1.0) == []
    assert fails(1.2, 1.5, 1.0) == [
        "distance to the widest's curve: that of width 128, 0.5 nats, is not below that of 64, 0.2"
    ]


def test_what_diverges_fails() -> None:
    found = check(*RESMLP, "run.optimizer.lr=1e6", "widths=[8,16,32]", "run.tokens=160", "seeds=2")
    assert "slope +nan, not -1" in found.fails[0]


def test_the_order_of_widths_does_not_matter() -> None:
    some = ("check=convergence", "run.tokens=320", "seeds=2")
    assert check(*some, "widths=[32,8,16]") == check(*some, "widths=[8,16,32]")


@pytest.mark.slow
def test_wider_is_better_by_its_own_settings() -> None:
    assert check("check=wider").fails == []
    found = check("check=wider", "run.parameterization=sp", "run.optimizer.lr=0.0625")
    assert "is worse than" in found.fails[0]


@pytest.mark.parametrize("kind", ["wider", "convergence"])
def test_whole_trainings_are_a_hundred_steps_with_the_runs_own_schedule(kind: str) -> None:
    config = compose_check([f"check={kind}"])
    assert config.run["tokens"] / config.run["batch"] == 100
    assert config.run["schedule"]["warmup"] > 0
    assert own_settings([f"check={kind}"])["widths"] == "[64,128,256,512]"
