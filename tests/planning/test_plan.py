"""A plan is the product of its axes, and costs what the formulas say."""

import dataclasses
from pathlib import Path

import pytest

from hptransfer.config import sweep as sweep_config
from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError
from hptransfer.monitor.tables import plan_table
from hptransfer.planning.identity import differences, identity
from hptransfer.planning.plan import make_plan
from tests.support.helpers import tiny


def test_quickstart_is_twelve_scales_and_its_target() -> None:
    plan = make_plan(compose("quickstart"))
    assert len(plan.scales) == 12
    assert dict(plan.target.axes) == {"width": 256, "depth": 4, "tokens": 131072}
    assert sum(plan.num_trials(scale) for scale in plan.scales) == 84


def test_an_axis_that_the_target_does_not_name_is_the_largest_of_the_grid() -> None:
    plan = make_plan(compose("quickstart", ["target.width=512", "~target.depth", "~target.tokens"]))
    assert dict(plan.target.axes) == {"width": 512, "depth": 4, "tokens": 65536}


@pytest.mark.parametrize(
    ("width", "note"),
    [
        (64, "note: the target width=64,depth=4,tokens=65536 is one of the sweep's scales"),
        (96, "note: the target width=96,depth=4,tokens=65536 lies inside the sweep's scales (width 32 to 128"),
        (512, "cost: "),
    ],
)
def test_a_plan_says_of_a_target_that_it_is_swept_already(width: int, note: str) -> None:
    plan = make_plan(compose("quickstart", [f"target.width={width}", "~target.depth", "~target.tokens"]))
    *_, last = plan_table(plan, dict.fromkeys((*plan.scales, plan.target)))
    assert str(last).startswith(note)


def test_one_at_a_time_sweeps_one_axis_at_a_time() -> None:
    plan = make_plan(compose("depthwise_transfer"))
    scales = [(scale.axes["width"], scale.axes["depth"]) for scale in plan.scales]
    assert sorted(scales) == sorted([(w, 6) for w in (32, 64, 128, 256)] + [(64, d) for d in (3, 12, 24, 48)])
    assert dict(plan.target.axes) == {"width": 256, "depth": 48}


def test_one_minus_tunes_the_distance_to_one() -> None:
    plan = make_plan(compose("depthwise_transfer", ["space=momentum"]))
    assert plan.tuned == ("forgetting",)
    assert plan.run(plan.target, {"forgetting": 0.25})["optimizer"]["momentum"] == 0.75
    assert plan.target_json()["complement"] == ["forgetting"]


@pytest.mark.parametrize("rule", ["sp", "mup", "sqrt_depth", "sqrt_depth_alone", "inverse_depth"])
@pytest.mark.parametrize("net", ["resmlp", "resnet", "vit"])
def test_every_net_of_the_depthwise_sweep_has_every_rule(net: str, rule: str) -> None:
    config = compose("depthwise_transfer", [f"net={net}", f"rule={rule}"])
    assert config.run["model"]["name"] == net
    assert make_plan(config).scales


def test_the_depthwise_sweep_takes_cifar10() -> None:
    data = ["run/data=cifar10", "run.data.path=folder", "grid.width.values=[64,128,256]", "grid.width.center=64"]
    assert compose("depthwise_transfer", ["net=resnet", *data]).run["loss"] == "training"


def test_flops_are_six_a_weight_and_token_plus_attention() -> None:
    plan = make_plan(compose("quickstart"))
    scale = next(s for s in plan.scales if dict(s.axes) == {"width": 64, "depth": 2, "tokens": 32768})
    weights = 2 * 12 * 64**2 + 256 * 64
    assert plan.sizes[scale].flops == 32768 * (6 * weights + 12 * 2 * 64 * 64)
    assert plan.sizes[scale].params == weights + (256 + 64) * 64


def test_a_trials_id_is_its_configuration_and_seed(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path))
    scale = plan.scales[0]
    first = plan.trial(scale, {"lr": 0.01}, 0)
    assert first == plan.trial(scale, {"lr": 0.01}, 0)
    others = [
        plan.trial(scale, {"lr": 0.02}, 0),
        plan.trial(scale, {"lr": 0.01}, 1),
        plan.trial(plan.scales[1], {"lr": 0.01}, 0),
    ]
    assert len({first.id, *(trial.id for trial in others)}) == 4


def test_what_extends_a_run_is_not_part_of_its_identity(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path))
    extended = ["seeds=2", "target.width=128", "space.lr.count=5", "budget.trials=3", "grid.width.values=[16,32,48]"]
    other = make_plan(tiny(tmp_path, *extended))
    assert differences(identity(plan.config, "d"), identity(other.config, "d")) == []


@pytest.mark.parametrize("override", ["run.compile=true", "run.activation_checkpointing=true"])
def test_how_the_same_numbers_are_computed_is_no_part_of_a_trial(tmp_path: Path, override: str) -> None:
    plan, other = make_plan(tiny(tmp_path)), make_plan(tiny(tmp_path, override))
    assert differences(identity(plan.config, "d"), identity(other.config, "d")) == []
    first, second = (one.trial(one.scales[0], {"lr": 0.01}, 0) for one in (plan, other))
    assert first.id == second.id
    assert first.run != second.run


def test_what_is_no_part_of_a_trial_cannot_be_swept(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path))
    with pytest.raises(ConfigError, match=r"run.compile is swept, but changes no loss: .*; set it once, in run"):
        plan.runner.check_swept(plan.run(plan.target), ["width", "compile"])


def test_the_alignment_is_measured_and_not_swept(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path))
    with pytest.raises(ConfigError, match=r"run.alignment is swept, but each value is another rule .*; set it once"):
        plan.runner.check_swept(plan.run(plan.target), ["width", "alignment"])


@pytest.mark.parametrize(
    "override", ["run.parameterization=sp", "run.batch=8", "run.optimizer.beta2=0.9", "run.precision=bf16"]
)
def test_what_changes_numbers_is(tmp_path: Path, override: str) -> None:
    plan, other = make_plan(tiny(tmp_path)), make_plan(tiny(tmp_path, override))
    (line,) = differences(identity(plan.config, "d"), identity(other.config, "d"))
    assert line.startswith(override.partition("=")[0])
    changed = differences(identity(plan.config, "d"), identity(plan.config, "e"))
    assert changed == ["the content of run.data is d there, e here"]


def test_a_sweep_comes_back_from_its_yaml(tmp_path: Path) -> None:
    import yaml

    config = tiny(tmp_path)
    again = sweep_config.sweep_from_json(yaml.safe_load(sweep_config.dump_sweep(config)))
    assert dataclasses.asdict(again) == dataclasses.asdict(config)
