"""Recipes that need no further package: their trainers are swept unchanged, and resume where they were stopped."""

import sys
import tomllib
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
import yaml

from hptransfer.config.compose import compose
from hptransfer.core.errors import Interrupted
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import DIVERGED, DONE, PREEMPTED
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import Plan, make_plan
from tests.support.helpers import ROOT
from tests.support.recipes import RECIPES, path_of_python
from tests.support.scripts import execute
from tests.support.slow import slow_except

# Steps that take a second or two.
LONG = {"toml": "run.names.steps=4000", "nanogpt": "run.names.iters=4000", "megatron": "run.names.iters=8000"}
LONG["fsdp"] = "run.names.steps=400"
NAMES = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
LONGEST_TRAINER = 60
MOST_LINES = 60
"""Lines of one screen."""


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", path_of_python())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def plan_of(name: str, runs: Path, *overrides: str) -> Plan:
    return make_plan(compose(f"examples/recipes/{name}/lr.yaml", [f"runs={runs}", "tracker=none", *overrides]))


def curve(folder: RunFolder, trial: str) -> list[tuple[int, float]]:
    return [(point["step"], point["loss"]) for point in read_jsonl(folder.curve_path(trial))]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_short_trainer_and_a_page_of_one_screen(name: str) -> None:
    page = ROOT / "docs" / "recipes" / f"{name}.md"
    assert len((RECIPES / name / "train.py").read_text().splitlines()) <= LONGEST_TRAINER
    assert len(page.read_text().splitlines()) <= MOST_LINES
    assert f"recipes/{name}.md" in (ROOT / "docs" / "your-script.md").read_text()
    assert f"docs/recipes/{name}.md" in (ROOT / "README.md").read_text()
    assert f"examples/recipes/{name}/lr.yaml" in page.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_sweep_of_a_recipe_is_planned(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, tmp_path)
    assert len(plan.scales) >= 2
    assert plan.sizes[plan.target].params > max(plan.sizes[scale].params for scale in plan.scales)


@pytest.mark.parametrize("name", slow_except(LONG, "toml", "nanogpt", "megatron"))
def test_a_stopped_trial_resumes_with_the_losses_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    undisturbed = plan_of(name, tmp_path / "a", LONG[name])
    trial, outcome, folder = execute(undisturbed, lr=0.005)
    assert outcome.state == DONE, outcome.error
    expected = curve(folder, trial.id)
    stopped = plan_of(name, tmp_path / "b", LONG[name])

    def stop() -> str | None:
        """Stop once a checkpoint is complete and later points are reported."""
        folders = [path for path in (tmp_path / "b").glob("*/trials/*") if len(read_jsonl(path / "metrics.jsonl")) > 1]
        return PREEMPTED if any(folder.glob("*/*.pkl") or folder.glob("*/*/.metadata") for folder in folders) else None

    with pytest.raises(Interrupted):
        execute(stopped, lr=0.005, stop=stop)
    points = curve(stopped.config.folder, trial.id)
    assert 0 < len(points) < outcome.steps // 10
    trial, outcome, folder = execute(stopped, lr=0.005, attempt=2)
    assert outcome.state == DONE, outcome.error
    assert curve(folder, trial.id) == expected


def test_a_log_with_nan_iterations_is_a_divergence(tmp_path: Path) -> None:
    _, outcome, _ = execute(plan_of("megatron", tmp_path), lr=1e6)
    assert outcome.state == DIVERGED


YAML_TEMPLATE = """\
model: {width: {{ width }}}
optimizer: {name: Adam, lr: {{ lr }}}
training: {steps: {{ steps }}, batch_size: 64, seed: {{ seed }}}
checkpoint: {enable: true, folder: "{{ trial_dir }}/checkpoint", interval: 50}
"""


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_a_trial_has_its_values_in_its_own_file(suffix: str, tmp_path: Path) -> None:
    """The recipe's own template, and the same one as YAML."""
    template = tmp_path / f"template{suffix}"
    template.write_text((RECIPES / "toml" / "template.toml").read_text() if suffix == ".toml" else YAML_TEMPLATE)
    plan = plan_of("toml", tmp_path / "runs", f"run.files.config={template}")
    trial, outcome, folder = execute(plan, lr=1e-05)
    assert outcome.state == DONE, outcome.error
    rendered = (folder.trial(trial.id) / "files" / f"config{suffix}").read_text()
    config = tomllib.loads(rendered) if suffix == ".toml" else yaml.safe_load(rendered)
    assert (config["model"]["width"], config["optimizer"]["lr"]) == (32, 1e-05)
    assert config["checkpoint"]["folder"] == f"{folder.trial(trial.id)}/checkpoint"


@pytest.mark.parametrize("package", ["transformers", "lightning"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"hptransfer.integrations.{package}"
    for name in [name for name in sys.modules if name == module or name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(package), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=rf"run `python -m pip install 'hptransfer\[{package}\]'`"):
        import_module(module)


class NotInstalled(MetaPathFinder):
    """Finder of modules for which a package is not there."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.split(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
