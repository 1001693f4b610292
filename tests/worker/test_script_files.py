"""run.files: a template is rendered into the trial's folder, and belongs to the sweep's identity."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.core.errors import ConfigError, DataError
from hptransfer.core.records import DONE, FAILED
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.identity import identity
from hptransfer.planning.plan import Plan
from hptransfer.worker.runners import RUNNERS
from hptransfer.worker.runners.script.files import format_in_file
from tests.support.helpers import command
from tests.support.scripts import execute, plan_of, write_sweep

SCRIPT = """
import sys, tomllib
import hptransfer
config = tomllib.load(open(sys.argv[1], "rb"))
hptransfer.report(step=1, loss=config["lr"] + config["width"])
"""
COMMAND = ["{python}", "train.py", "{config}"]
TEMPLATE = "# {} and {braces} are text\nwidth = {{ width }}\nlr = {{ lr }}\nseed = {{ seed }}\n"


def plan_with(folder: Path, template: str = TEMPLATE, *overrides: str, **run: Any) -> Plan:
    (folder / "base.toml").write_text(template)
    return plan_of(folder, SCRIPT, *overrides, **{"command": COMMAND, "files": {"config": "base.toml"}} | run)


def refusal(folder: Path, template: str = TEMPLATE, **run: Any) -> str:
    with pytest.raises(ConfigError) as error:
        plan_with(folder, template, **run)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_script_reads_its_values_from_a_rendered_file(tmp_path: Path) -> None:
    trial, outcome, folder = execute(plan_with(tmp_path), lr=1 / 3)
    assert (outcome.state, outcome.loss) == (DONE, 1 / 3 + 32)
    rendered = folder.trial(trial.id) / "files" / "config.toml"
    assert rendered.read_text() == f"# {{}} and {{braces}} are text\nwidth = 32\nlr = {1 / 3!r}\nseed = 0\n"
    assert json.loads((folder.trial(trial.id) / "settings.json").read_text())["config"] == str(rendered.resolve())


@pytest.mark.parametrize("value", [1e-05, 2.5e-07, 1e22, 0.1, 1 / 3, 3.0, 5e-324])
def test_every_language_reads_the_same_number(value: float) -> None:
    """PyYAML reads 1e-05 as text."""
    text = str(format_in_file(value))
    assert yaml.safe_load(text) == value
    assert tomllib.loads(f"x = {text}")["x"] == value
    assert json.loads(text) == value


def test_a_template_may_compute(tmp_path: Path) -> None:
    template = TEMPLATE.replace("{{ lr }}", "{{ lr * 2 }}")
    _, outcome, _ = execute(plan_with(tmp_path, template), lr=0.25)
    assert outcome.loss == 32.5


def test_an_unknown_name_is_one_line_with_its_place(tmp_path: Path) -> None:
    message = refusal(tmp_path, TEMPLATE + "x = {{ widht }}\n")
    assert message.startswith("run.files.config: unknown name 'widht'. Did you mean 'width'?")
    assert message.endswith("(base.toml, line 5)")


def test_a_swept_value_in_neither_command_nor_template_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, TEMPLATE.replace("{{ lr }}", "0.1"))
    assert "'lr' is swept" in message
    assert "nor a template of run.files {{ lr }}" in message


def test_a_file_that_the_command_lacks_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, command=["{python}", "train.py", "{width}", "{lr}"])
    assert message.startswith("run.files.config: neither run.command nor run.environment has {config}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a = 1\nlr = {{ lr\n", r"base.toml, line \d is not a template"),
        ("lr = {{ lr | rouund }}", r"base.toml, line 1 is not a template \(No filter named 'rouund'"),
        ("{% include 'x' %}{{ lr }}{{ width }}", ""),
        ("lr = {{ lr }}\nurl = 'postgres://me:secret@host/x'\n", "holds a secret"),
        ("lr = {{ lr }}\napi_key = 'a1b2c3d4e5f6a7b8'\n", "holds a secret"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(template: str, message: str, tmp_path: Path) -> None:
    if message:
        with pytest.raises(ConfigError, match=message):
            plan_with(tmp_path, template)
    else:
        _, outcome, _ = execute(plan_with(tmp_path, template))
        assert outcome.state == FAILED


@pytest.mark.parametrize("path", ["nothing.toml", ".", "a" * 300])
def test_a_template_that_does_not_exist_is_refused(path: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, files={"config": path}).startswith(f"run.files.config: there is no file {path!r} in /")


def test_a_template_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.bin").write_bytes(b"\xff\xfe{{ lr }}")
    assert "base.bin cannot be read as text" in refusal(tmp_path, files={"config": "base.bin"})


@pytest.mark.parametrize("name", ["width", "lr", "settings", "params", "a-b", "flops"])
def test_the_name_of_a_file_is_its_own(name: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, files={name: "base.toml"}).startswith(f"run.files.{name}: {name!r} is ")


def test_a_value_that_fails_as_it_is_rendered_fails_the_trial(tmp_path: Path) -> None:
    _, outcome, _ = execute(plan_with(tmp_path, TEMPLATE + "x = {{ 1 // (width - 32) }}\n"))
    assert outcome.state == FAILED
    assert outcome.error is not None
    assert outcome.error.startswith("run.files.config: base.toml cannot be rendered (")


def test_another_template_is_another_sweep(tmp_path: Path) -> None:
    plan = plan_with(tmp_path)
    other = plan_with(tmp_path, TEMPLATE + "# a comment\n")
    assert identity(plan.config, plan.fingerprint) != identity(other.config, other.fingerprint)
    assert "run the content of train.py, base.toml".removeprefix("run ") in identity(plan.config, plan.fingerprint)


def test_a_command_without_files_keeps_its_commit_beside_the_template(tmp_path: Path) -> None:
    run = {"command": ["python", "-m", "torchtitan.train", "{config}"], "cwd": str(tmp_path)}
    (tmp_path / "base.toml").write_text(TEMPLATE)
    script = RUNNERS.get("script")
    run_with_file = {**run, "files": {"config": "base.toml"}}
    assert script.fingerprint_source(run_with_file) == "the commit of run.cwd and the content of base.toml"
    assert script.fingerprint(run_with_file) != script.fingerprint(run)


def test_a_run_without_files_has_the_ids_of_earlier_versions(tmp_path: Path) -> None:
    """Its trials would be trained again otherwise."""
    assert "files" not in RUNNERS.get("script").identity_settings(plan_of(tmp_path).config.run)
    settings = RUNNERS.get("script").identity_settings(plan_with(tmp_path).config.run)
    assert settings["files"] == {"config": "base.toml"}


def test_a_copied_source_tree_without_the_template_is_refused(tmp_path: Path) -> None:
    run = {"command": ["python"], "cwd": str(tmp_path), "files": {"config": "base.toml"}}
    with pytest.raises(DataError, match=r"run.files: there is no file 'base.toml'"):
        RUNNERS.get("script").check_files(run, RunFolder(tmp_path / "run"))


def test_a_sweep_goes_on_only_with_the_same_template(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(TEMPLATE)
    write_sweep(tmp_path, SCRIPT, command=COMMAND, files={"config": "base.toml"})
    short = ("sweep", "bowl.yaml", "grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0")
    command(*short, cwd=tmp_path)
    assert len(list((tmp_path / "runs" / "bowl" / "trials").glob("*/files/config.toml"))) == 3
    (tmp_path / "base.toml").write_text(TEMPLATE + "# other\n")
    refused = command(*short, cwd=tmp_path)
    assert refused.returncode == 2
    assert "the content of train.py, base.toml" in refused.stderr
