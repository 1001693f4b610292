"""What a sweep of a script can say, and what makes it another sweep."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import DONE
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.cost import seconds_by_scale
from hptransfer.planning.identity import differences, identity
from hptransfer.planning.plan import make_plan
from hptransfer.worker.runners.script.command_line import build_arguments
from hptransfer.worker.runners.script.config import script_from_json
from tests.support.helpers import ROOT, command, outcomes
from tests.support.scripts import BOWL, execute, plan_of, write_sweep

# --- what a sweep file can say ---------------------------------------------------------------------

BAD = [
    ({"command": ["python", "{widht}", "{lr}"]}, "run.command[1]: unknown name 'widht'. Did you mean 'width'?"),
    ({"command": ["python", "{width:03d}", "{lr}"]}, "has braces around something that is not a name; write {{ and }}"),
    ({"command": ["python", '{"a": 1}', "{lr}"]}, "has braces around something that is not a name"),
    ({"command": ["python", "}", "{lr}"]}, "has braces around something that is not a name"),
    ({"command": ["python", "train.py", "{lr}"]}, "'width' is swept, but neither run.command nor run.environment"),
    ({"command": []}, "run.command must be a list of arguments, such as [python, train.py], got none"),
    ({"environment": {"LR": "{rate}"}}, "run.environment.LR: unknown name 'rate'"),
    ({"params": None}, "run.params must be given: arithmetic over"),
    ({"tokens": None}, "run.flops must be given, or run.tokens"),
    ({"params": "12 * widht"}, "run.params: unknown name 'widht'. Did you mean 'width'?"),
    ({"params": "width - 32"}, "run.params must be a number above 0, got 0"),
    ({"params": "12 * lr"}, "run.params depends on 'lr', which is tuned"),
    ({"params": "nowhere:count"}, "run.params: nowhere:count cannot be imported (ModuleNotFoundError"),
    ({"params": "sizes:gone"}, "run.params: sizes:gone cannot be imported (AttributeError"),
    ({"params": "sizes:needs_depth"}, "sizes:needs_depth needs 'depth'; unknown name 'depth'"),
    ({"params": "sizes:fails"}, "run.params: sizes:fails failed at {'width': 32, 'tokens': 1000} (ValueError: x)"),
    ({"params": "sizes:tuned"}, "run.params depends on 'lr', which is tuned"),
    ({"names": {"seed": 1}}, "run.names.seed: 'seed' is the trial's own seed"),
    ({"names": {"a-b": 1}}, "'a-b' is not a name; use letters, digits and _"),
    ({"names": {"Width": 1}}, "both are HPTRANSFER_WIDTH; rename one"),
    ({"names": {"sizes": [1]}}, "run.names.sizes must be a number or text, got [1]"),
    ({"names": {"mode": math.nan}}, "run.names.mode must be finite, got nan; quote it"),
    ({"names": {"tokens": 5}}, "run.tokens is given twice"),
    ({"metric": {"reduce": "men"}}, "run.metric.reduce: unknown reduction 'men'. Did you mean 'mean'?"),
    ({"metric": {"points": 0}}, "run.metric.points must be at least 1, got 0"),
    ({"metric": {"pattern": "("}}, "run.metric.pattern '(' is not a regular expression"),
    ({"metric": {"pattern": "loss (.*)"}}, "run.metric.pattern has no group (?P<loss>...)"),
    ({"launch": "torchrn"}, "run.launch: unknown choice 'torchrn'. Did you mean 'torchrun'?"),
    ({"processes": 2}, "run.processes must be at least 1, and 1 unless launch=torchrun, got 2"),
    ({"timeout_s": 0}, "run.timeout_s must be above 0, got 0"),
    ({"cwd": "/nowhere"}, "run.cwd: there is no folder '/nowhere'"),
    ({"environment": {"A": [3]}}, "run.environment.A must be text or a number, got [3]"),
    ({"environment": {"A=B": 3}}, "run.environment.A=B: 'A=B' is not a name of a variable"),
    ({"environment": {"HPTRANSFER_LR": 3}}, "run.environment.HPTRANSFER_LR: names that begin with HPTRANSFER_"),
]
SIZES = """
def count(width, depth=2): return 12 * depth * width**2
def needs_depth(width, depth): return 1
def fails(width, **more): raise ValueError("x")
def tuned(lr): return 1
"""


@pytest.mark.parametrize(("run", "message"), BAD)
def test_bad_input_is_one_line_before_anything_runs(here: Path, run: dict[str, Any], message: str) -> None:
    (here / "sizes.py").write_text(SIZES)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        plan_of(here, BOWL, **run)
    assert "\n" not in str(caught.value)


FILES = [
    ({"command": "python train.py"}, "run.command takes a list"),
    ({"metric": {"keyy": "x"}}, "run.metric.keyy: unknown key 'keyy'. Did you mean 'key'?"),
    ({"timeout_s": "soon"}, "run.timeout_s takes a number, got 'soon'"),
    ({"command": "???"}, "run.command must be given"),
]


@pytest.mark.parametrize(("run", "message"), FILES)
def test_what_a_file_says_wrongly_is_named_by_its_key(here: Path, run: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        plan_of(here, BOWL, **run)


def test_a_script_that_is_not_there_is_said_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(here, cwd=str(here), command=["python", "trian.py", "{width}", "{lr}"])
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(path), f"runs={here / 'runs'}"])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert f"run.command: there is no file 'trian.py' in {here}; correct its name" in error
    assert not (here / "runs").exists()


def test_only_names_are_swept(here: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("grid.width.path must be run.names.NAME under run=script, got")):
        plan_of(here, BOWL, "grid.width.path=run.command")


def test_overrides_are_checked_too(here: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("run.command takes a list")):
        plan_of(here, BOWL, "run.command=python")
    with pytest.raises(ConfigError, match=re.escape("unknown key 'comand'. Did you mean 'command'?")):
        plan_of(here, BOWL, "run.comand=[a]")
    with pytest.raises(ConfigError, match=re.escape("'seed' is swept, but neither")):
        plan_of(here, BOWL, "run.command=[python,train.py,'{width}','{lr}']", "seeds=2")
    with pytest.raises(ConfigError, match=re.escape("grid.width: run.names.width takes whole numbers, got 96.5")):
        plan_of(here, BOWL, "target.width=96.5")


def test_a_path_is_needed_where_there_are_no_names(tmp_path: Path) -> None:
    source = (ROOT / "sweeps" / "quickstart.yaml").read_text()
    (tmp_path / "x.yaml").write_text(source.replace("path: run.model.width, ", ""))
    with pytest.raises(ConfigError, match=re.escape("grid.width.path must be given, such as run.model.width")):
        compose(str(tmp_path / "x.yaml"))


def test_costs_are_formulas_or_functions(here: Path) -> None:
    (here / "sizes.py").write_text(SIZES)
    plan = plan_of(here, BOWL, params="sizes:count")
    assert [plan.sizes[scale].params for scale in plan.scales] == [24 * width**2 for width in (32, 64, 128)]
    assert plan.sizes[plan.target].flops == 6 * 24 * 256**2 * 1000
    plan = plan_of(here, BOWL, flops="2 * params * tokens + seed_cost", names={"seed_cost": 5})
    assert plan.sizes[plan.scales[0]].flops == 2 * 12 * 32**2 * 1000 + 5


def test_a_transformed_value_has_a_name_of_its_own(here: Path) -> None:
    plan = plan_of(here)
    (here / "bowl.yaml").write_text(
        (here / "bowl.yaml")
        .read_text()
        .replace("lr:\n", "lr:\n    transform: one_minus\n    path: run.names.momentum\n")
        .replace("'{lr}'", "'{momentum}'")
    )
    plan = make_plan(compose(str(here / "bowl.yaml"), []))
    assert plan.run(plan.target, {"lr": 0.25})["names"] == {"width": 256, "momentum": 0.75}


# --- its identity ----------------------------------------------------------------------------------


def test_another_script_is_another_sweep(here: Path) -> None:
    first = plan_of(here)
    assert plan_of(here).fingerprint == first.fingerprint
    other = plan_of(here, BOWL + "\n# changed\n")
    (line,) = differences(identity(first.config, first.fingerprint), identity(other.config, other.fingerprint))
    assert line == f"the content of train.py is {first.fingerprint} there, {other.fingerprint} here"


def test_what_changes_no_number_extends_a_run(here: Path) -> None:
    first = plan_of(here)
    second = plan_of(here, BOWL, timeout_s=60, grace_s=1, params="13 * width**2")
    assert differences(identity(first.config, "d"), identity(second.config, "d")) == []
    trials = [plan.trial(plan.scales[0], {"lr": 0.5}, 0).id for plan in (first, second)]
    assert trials[0] == trials[1]
    third = plan_of(here, BOWL, metric={"reduce": "minimum"})
    (line,) = differences(identity(first.config, "d"), identity(third.config, "d"))
    assert line == "run.metric.reduce is last there, minimum here"


def test_a_new_time_limit_holds_for_trials_that_are_unfinished(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    words = ("sweep", "bowl.yaml", "grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0")
    command(*words, "budget.trials=1", cwd=tmp_path)
    done = command(*words, "run.timeout_s=60", cwd=tmp_path)
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert list(outcomes(folder).values()) == [DONE] * 3, done.stdout + done.stderr
    assert sorted(str(trial.run["timeout_s"]) for trial in folder.read_trials()) == ["60.0", "60.0", "None"]


def test_a_plan_says_that_time_is_unknown_until_it_was_measured(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    planned = command("plan", "bowl.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "device-hours unknown, as nothing was measured yet" in planned.stdout
    plan = plan_of(tmp_path, BOWL)
    trial, outcome, folder = execute(plan)
    from hptransfer.core.io import write_json

    write_json(folder.outcome_path(trial.id), outcome.to_json())
    seconds = seconds_by_scale(make_plan(plan.config))
    assert seconds[plan.scales[0]] == outcome.seconds
    assert seconds[plan.scales[1]] == pytest.approx(4 * outcome.seconds)


# --- several processes -----------------------------------------------------------------------------


def test_torchrun_meets_on_this_machine_or_across_the_allocations_nodes(here: Path) -> None:
    plan = plan_of(here, BOWL, launch="torchrun", processes=2)
    config = script_from_json(plan.run(plan.scales[0], {"lr": 0.5}))
    names = {**config.names, "seed": 0, "python": "py", "trial": "3f", "attempt": 2}
    alone = build_arguments(config, names, {"SLURM_JOB_NUM_NODES": "1"})
    torchrun = ["py", "-m", "torch.distributed.run", "--nproc-per-node=2"]
    assert alone == [*torchrun, "--standalone", "--no-python", "py", "train.py", "32", "0.5", "0"]
    across = build_arguments(config, names, {"SLURM_JOB_NUM_NODES": "2"})
    assert across[:3] == ["srun", "--nodes=2", "--ntasks=2"]
    assert "--ntasks-per-node=1" in across
    assert across[across.index("py") :][:4] == torchrun
    assert {"--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=3f-2"} < set(across)
    assert across[-5:] == ["py", "train.py", "32", "0.5", "0"]
    assert not any(word == "--standalone" for word in across)


def test_a_name_that_is_null_is_refused(here: Path) -> None:
    command = ["python", "train.py", "{width}", "{lr}", "{a}"]
    with pytest.raises(ConfigError, match=r"run\.names\.a is null"):
        plan_of(here, command=command, names={"a": None})
    assert plan_of(here, command=command, names={"a": 1}).tuned == ("lr",)
