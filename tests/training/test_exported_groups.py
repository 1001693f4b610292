"""`export` prints the numbers with which a trial at the prediction trains."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hptransfer.analysis.pipeline import export
from hptransfer.config.compose import compose
from hptransfer.config.sweep import SweepConfig, TunedConfig, dump_sweep
from hptransfer.core.io import write_json, write_text
from hptransfer.core.records import DONE, VERIFY, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.parameterizations import BUDGET_RULES, PARAMETERIZATIONS
from hptransfer.planning.plan import Plan, make_plan
from hptransfer.training.config import run_from_json
from hptransfer.training.groups import group_keys
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.helpers import command

DECAYS = ("default", "coupled", "independent", "timescale")
MEMORIES = ("momentum", "beta1", "beta2")
# Off the base in width, depth, batch and tokens. Settings of 0 tell nothing about a tuned value.
RUN = {
    "run.base": {"width": 8, "depth": 2, "batch": 4, "tokens": 4096},
    "run.batch": 8,
    "run.optimizer.weight_decay": 0.0,
    "run.constants.output.init": 0.0,
}
Sweeps = Callable[[str, str], SweepConfig]
RULES = list(itertools.product(DECAYS, BUDGET_RULES))


SWEEP = """\
defaults: [sweep, run: builtin, run/model: {model}, run/optimizer: {optimizer}, run/data: {data},
           sampler: grid, launcher: inline, tracker: none, _self_]
name: exported
run: {{base: {{width: 8}}, sequence: {sequence}}}
grid:
  width: {{path: run.model.width, values: [8, 16]}}
  depth: {{path: run.model.depth, values: [2, 3]}}
  tokens: {{path: run.tokens, values: [2048, 4096]}}
space:
  lr: {{path: run.optimizer.lr, values: [0.01, 0.02, 0.04]}}
target: {{width: 32, depth: 4, tokens: 8192}}
"""


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    """Composes a sweep of an optimizer and a model, once."""
    folder = tmp_path_factory.mktemp("sweeps")

    @cache
    def composed(optimizer: str, model: str) -> SweepConfig:
        data, sequence = ("stdlib", 32) if model == "transformer" else ("teacher", 1)
        file = folder / f"{optimizer}-{model}.yaml"
        file.write_text(SWEEP.format(model=model, optimizer=optimizer, data=data, sequence=sequence))
        return compose(str(file), [])

    return composed


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = value


def plan_of(config: SweepConfig, parameterization: str, decay: str, budget: str, **further: Any) -> Plan:
    """Return the plan of a sweep that tunes every setting that groups depend on."""
    tree = {"run": json.loads(json.dumps(config.run))}
    settings = {"run.parameterization": parameterization, "run.budget": budget, "run.optimizer.decay": decay}
    for path, value in {**RUN, **settings, **further}.items():
        set_path(tree, path, value)
    kept = ("decay", "lr", "weight_decay")
    others = [key for key, value in tree["run"]["optimizer"].items() if isinstance(value, float) and key not in kept]
    space = {key: TunedConfig(path=f"run.optimizer.{key}", values=[0.1, 0.2, 0.4]) for key in ("weight_decay", *others)}
    for key in set(MEMORIES) & set(space):
        space[key].transform = "one_minus"
    space["lr"] = TunedConfig(path="run.optimizer.lr", values=[0.01, 0.02, 0.04])
    for role, key in (("hidden", "lr"), ("input", "multiplier"), ("output", "init"), ("output", "multiplier")):
        space[f"{role}_{key}"] = TunedConfig(path=f"run.constants.{role}.{key}", values=[0.5, 1.0, 2.0])
    if parameterization != "umup":
        space["branch"] = TunedConfig(path="run.branch.multiplier", values=[0.5, 1.0, 2.0])
    plan = make_plan(dataclasses.replace(config, run=tree["run"]))
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, space=space))


def exported(plan: Plan, path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a prediction and what `export` prints for it."""
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    predicted = {key: 1.1 * grid[1] for key, grid in plan.grids.items()}
    answers = {key: {"value": value} for key, value in predicted.items()}
    write_json(folder.target, plan.target_json())
    write_json(folder.prediction, {"target": dict(plan.target.axes), "hyperparameters": answers})
    return predicted, export(folder, lambda axes: pytest.fail("the target is the run's own"))


def assert_trained_as_exported(plan: Plan, path: Path) -> None:
    """Compare with the groups that go into outcome.json, and with the base's initial values."""
    predicted, answer = exported(plan, path)
    trial = plan.trial(plan.target, predicted, 0)
    run = run_from_json(trial.run)
    keys, trained = group_keys(run), Stack([run], [0], device="cpu").groups(0)
    assert len(trained) == len(answer["groups"])
    assert answer["decay"] == run.trainer.decay
    for group, (name, numbers) in zip(trained, answer["groups"].items(), strict=True):
        assert name.partition(" ")[0] == group["role"]
        settings = {key: value for key, value in group.items() if key not in ("role", "parameters")}
        assert {key: numbers[key] for key in settings} == pytest.approx(settings, rel=1e-9)
        sharing = [own for own in group["parameters"].values() if "readout_multiplier" in own]
        assert bool(sharing) == ("readout_multiplier" in numbers)
        for parameter, own in group["parameters"].items():
            spread = keys[parameter].base_fan_in ** -0.5 * numbers["init_std"]
            assert own["init_std"] in (0, pytest.approx(spread))
            assert own["output_multiplier"] == pytest.approx(numbers["output_multiplier"])
            if "readout_multiplier" in own:
                assert own["readout_multiplier"] == pytest.approx(8**-0.5 * numbers["readout_multiplier"])
            if "branch_factor" in own and answer["branch_multiplier"] is not None:
                assert own["branch_factor"] == pytest.approx(answer["branch_multiplier"])


def pairs() -> list[tuple[str, str, str, str]]:
    """Return every optimizer under every parameterization, each with its turn of the rules."""
    turns, found = itertools.cycle(RULES), []
    for optimizer, parameterization in itertools.product(OPTIMIZERS.names(), PARAMETERIZATIONS.names()):
        if parameterization != "umup" or optimizer not in ("kfac", "shampoo"):
            found.append((optimizer, parameterization, *next(turns)))
    return found


def test_all_rules_have_their_turn() -> None:
    assert {(decay, budget) for _, _, decay, budget in pairs()} == set(RULES)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_setting_of_every_group(tmp_path: Path, sweeps: Sweeps, optimizer: str) -> None:
    for of_optimizer, *rules in pairs():
        if of_optimizer == optimizer:
            assert_trained_as_exported(plan_of(sweeps(optimizer, "resmlp"), *rules), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_rule_together(tmp_path: Path, sweeps: Sweeps, optimizer: str) -> None:
    refused = {"umup"} if optimizer in ("kfac", "shampoo") else set()
    for parameterization in {*PARAMETERIZATIONS.names()} - refused:
        for decay, budget in RULES:
            plan = plan_of(sweeps(optimizer, "resmlp"), parameterization, decay, budget)
            assert_trained_as_exported(plan, tmp_path)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_depth_rule(tmp_path: Path, sweeps: Sweeps, alpha: float) -> None:
    plan = plan_of(sweeps("adamw", "resmlp"), "mup", "timescale", "complete", **{"run.branch.alpha": alpha})
    assert_trained_as_exported(plan, tmp_path)


def test_a_readout_that_shares_the_embeddings_weights(tmp_path: Path, sweeps: Sweeps) -> None:
    shape = {"run.model.tied": True, "run.model.head_dim": 8}
    assert_trained_as_exported(plan_of(sweeps("adamw", "transformer"), "mup", "coupled", "sqrt", **shape), tmp_path)


@pytest.mark.slow
def test_the_commands_train_what_they_export(tmp_path: Path, sweeps: Sweeps) -> None:
    """A verification trains the prediction, and its outcome.json holds what `export` prints."""
    config = sweeps("adamw", "mlp")
    run = {**config.run, "budget": "sqrt", "base": {**config.run["base"], "batch": 4}, "batch": 64, "tokens": 2048}
    run["optimizer"] = {**run["optimizer"], "decay": "timescale"}
    space = {
        "weight_decay": TunedConfig(path="run.optimizer.weight_decay", values=[0.25, 0.5, 1.0], extend=0),
        "beta2": TunedConfig(path="run.optimizer.beta2", transform="one_minus", values=[0.01, 0.02, 0.04], extend=0),
    }
    grid, design = {"width": config.grid["width"]}, "one_at_a_time"
    config = dataclasses.replace(config, run=run, space=space, grid=grid, target={"width": 32}, design=design)
    plan = make_plan(dataclasses.replace(config, runs=str(tmp_path)))
    folder = plan.config.folder
    folder.create()
    write_text(folder.sweep, dump_sweep(plan.config))
    write_json(folder.target, plan.target_json())
    for scale, point in itertools.product(plan.scales, plan.points):
        tuned = dict(zip(space, point, strict=True))
        trial = plan.trial(scale, tuned, 0)
        folder.write_trial(trial)
        loss = 3.0 + sum(math.log2(value / space[key].values[1]) ** 2 / 20 for key, value in tuned.items())
        write_json(folder.outcome_path(trial.id), Outcome(state=DONE, loss=loss, loss_se=0.1, steps=32).to_json())
    assert command("analyze", str(folder.path)).returncode == 0
    command("verify", str(folder.path))
    answer = json.loads(command("export", str(folder.path)).stdout)
    predicted = {key: pytest.approx(interval["value"]) for key, interval in answer["hyperparameters"].items()}
    trained, *_ = (
        trial for trial in folder.read_trials() if trial.purpose == VERIFY and dict(trial.tuned) == predicted
    )
    outcome = folder.read_outcome(trained.id)
    assert outcome is not None
    for group, numbers in zip(outcome.groups, answer["groups"].values(), strict=True):
        assert group["weight_decay"] == pytest.approx(1 / (trained.tuned["weight_decay"] * 32))
        settings = {key: value for key, value in group.items() if key not in ("role", "parameters")}
        assert {key: numbers[key] for key in settings} == pytest.approx(settings)
        for cell in (numbers["weight_decay"], numbers["beta2"]):
            assert f"<td>{cell:.4g}</td>" in folder.report.read_text()
