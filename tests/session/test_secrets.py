"""Secrets of a sweep reach its script and its hooks, and stand nowhere in what the tool writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.config.notifications import HooksConfig
from hptransfer.config.sweep import dump_sweep, load_sweep
from hptransfer.core.errors import ConfigError, RunFolderError
from hptransfer.core.io import write_json, write_text
from hptransfer.core.records import digest
from hptransfer.core.run_folder import RunFolder
from hptransfer.session.session import check_folder
from hptransfer.session.snapshot import take_snapshot
from tests.support.helpers import command, outcomes
from tests.support.scripts import execute, plan_of, write_sweep

# It tells the test what it got, prints it all, and fails at the highest learning rate.
SCRIPT = """
import json, os, sys
import hptransfer
with open(os.environ["GOT"], "a") as file:
    file.write(json.dumps([sys.argv, dict(os.environ)]) + "\\n")
print(sys.argv, os.environ["WANDB_API_KEY"], flush=True)
hptransfer.report(step=1, loss=3.0)
if float(sys.argv[2]) > 0.1:
    sys.exit("ValueError: bad key " + os.environ["WANDB_API_KEY"])
"""
HOOK = "import os, sys; open(os.environ['TOLD'], 'w').write(repr(sys.argv)); sys.exit('refused ' + sys.argv[1])"
SECRETS = {
    "WANDB_API_KEY": "hunter-of-environment",
    "OTHER": "hunter-by-its-place",
    "HF_TOKEN": "hunter-of-token",
    "LOGIN_PASSWORD": "hunter-of-option",
    "PGPASSWORD": "hunter-of-uri",
    "HOOK_TOKEN": "hunter-of-bearer",
    "SWEEP_HOOK": "http://127.0.0.1:9/hunter-of-address",
}
RUN: dict[str, Any] = {
    "command": [
        *("{python}", "train.py", "{width}", "{lr}"),
        *("--api-key=${oc.env:OTHER}", "--password", "${oc.env:LOGIN_PASSWORD}"),
        "Authorization: Bearer ${oc.env:HF_TOKEN}",
    ],
    "environment": {
        "WANDB_API_KEY": "${oc.env:WANDB_API_KEY}",
        "DATABASE": "postgresql://me:${oc.env:PGPASSWORD}@db/{width}",
        "GOT": "${oc.env:PLACE}/got",
    },
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the sweep file of a script, and the environment that it refers to."""
    for name, value in {**SECRETS, "PLACE": str(tmp_path), "TOLD": str(tmp_path / "told")}.items():
        monkeypatch.setenv(name, value)
    write_sweep(tmp_path, SCRIPT, **RUN)
    return tmp_path


def hunters(folder: Path, *texts: str) -> list[str]:
    """Files below a folder, and texts, that have a secret in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if b"hunter" in path.read_bytes()] + [
        text for text in texts if "hunter" in text
    ]


SMALL = ("grid.width.values=[32]", "target.width=32", "space.lr.values=[0.01,0.02,0.5]", "space.lr.extend=0")


@pytest.mark.parametrize("tracker", ["none", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_sweep_passes_its_secrets_on_and_stores_none(
    here: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hooks = [
        f"""hooks.failed=['{sys.executable}',-c,"{HOOK}",'Bearer ${{oc.env:HOOK_TOKEN}}']""",
        "hooks.done='${oc.env:SWEEP_HOOK}'",
    ]
    arguments = ["sweep", "bowl.yaml", *SMALL, *hooks, f"tracker={tracker}"]
    monkeypatch.setattr("sys.argv", ["hptransfer", *arguments])
    done = command(*arguments, cwd=here)
    assert done.returncode == 3, done.stdout + done.stderr
    shown = [command(verb, "bowl", cwd=here).stdout for verb in ("status", "logs", "export")]
    folder = RunFolder(here / "runs" / "bowl")
    trial = next(trial for trial, state in outcomes(folder).items() if state == "failed")
    shown.append(command("logs", "bowl", trial, cwd=here).stdout)

    # The control: script and hook have all of them.
    argv, environment = json.loads((here / "got").read_text().splitlines()[0])
    assert argv[3:6] == ["--api-key=hunter-by-its-place", "--password", "hunter-of-option"]
    assert argv[6:] == ["Authorization: Bearer hunter-of-token"]
    assert environment["WANDB_API_KEY"] == "hunter-of-environment"
    assert environment["DATABASE"] == "postgresql://me:hunter-of-uri@db/32"
    assert "'Bearer hunter-of-bearer'" in (here / "told").read_text()

    printed = capfd.readouterr()
    assert hunters(folder.path, done.stdout, done.stderr, *shown, printed.out, printed.err) == []
    assert "Bearer ***" in printed.out  # what the script printed, on the terminal of launcher=inline
    outcome = folder.read_outcome(trial)
    assert outcome is not None
    assert (outcome.error or "").endswith("ValueError: bad key ***")
    assert "hooks.failed failed (it ended with exit code 1: refused Bearer ***)" in " ".join(done.stdout.split())
    stored = yaml.safe_load(folder.sweep.read_text())
    assert stored["run"]["command"][4:] == RUN["command"][4:]
    assert stored["run"]["environment"] == {**RUN["environment"], "GOT": str(here / "got")}
    assert stored["hooks"]["done"] == "${oc.env:SWEEP_HOOK}"
    assert stored["variables"] == {"PLACE": digest(str(here))}
    assert (folder.path / "mlflow.db").exists() == (tracker == "mlflow")


def described(here: Path) -> RunFolder:
    """The folder of a run that has not trained yet."""
    plan = plan_of(here, SCRIPT, **RUN)
    folder = plan.config.folder
    folder.create()
    write_text(folder.sweep, dump_sweep(plan.config))
    write_json(folder.target, plan.target_json())
    return folder


def test_a_rotated_secret_is_the_same_sweep_and_a_changed_variable_another(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(here)
    monkeypatch.setattr(RunFolder, "has_result", lambda *_: True)  # before, any correction is taken
    before = plan_of(here, SCRIPT, **RUN)
    monkeypatch.setenv("WANDB_API_KEY", "hunter-of-today")
    after = plan_of(here, SCRIPT, **RUN)
    check_folder(after)
    assert after.trial(after.target, {"lr": 0.01}, 0) == before.trial(before.target, {"lr": 0.01}, 0)
    monkeypatch.setenv("PLACE", "/elsewhere")
    with pytest.raises(
        RunFolderError, match=r"environment.GOT is .*/got there, /elsewhere/got here; .*PLACE has changed"
    ):
        check_folder(plan_of(here, SCRIPT, **RUN))


def test_a_secret_in_a_run_of_an_earlier_version_is_not_shown_but_its_run_opens(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = described(here)
    monkeypatch.setattr(RunFolder, "has_result", lambda *_: True)  # before, any correction is taken
    folder.sweep.write_text(folder.sweep.read_text().replace("${oc.env:WANDB_API_KEY}", "hunter-of-old"))
    assert load_sweep(folder).run["environment"]["WANDB_API_KEY"] == "hunter-of-old"
    with pytest.raises(RunFolderError, match=r"WANDB_API_KEY is \*\*\* there, \${oc.env:WANDB_API_KEY} here"):
        check_folder(plan_of(here, SCRIPT, **RUN))


def test_a_node_without_a_variable_fails_the_trial_with_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(here, SCRIPT, **RUN)
    monkeypatch.delenv("HF_TOKEN")
    _, outcome, _ = execute(plan)
    assert (outcome.state, outcome.cause) == ("failed", "code error")
    assert "run.command reads the variable HF_TOKEN, which is not set on " in (outcome.error or "")
    assert not (here / "got").exists()


def test_a_hook_is_read_before_anything_is_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_HOOK", "ftp://hunter")
    refused = command("sweep", "bowl.yaml", *SMALL, "hooks.done='${oc.env:SWEEP_HOOK}'", cwd=here)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "hooks.done must be a command as a list" in refused.stderr
    assert not (here / "runs").exists()
    monkeypatch.delenv("SWEEP_HOOK")
    with pytest.raises(ConfigError, match=r"hooks.done reads the variable SWEEP_HOOK, which is not set on"):
        HooksConfig(done="${oc.env:SWEEP_HOOK}").with_secrets("hooks")


@pytest.mark.parametrize(
    "override",
    [
        "+run.environment.HF_TOKEN=hunter2",
        "run.environment={HF_TOKEN: hunter2}",
        "run.environment={HF_TOKEN: hunter2",
        "+run.environment.HF_TOKEN=hunter,2",
        "+run.enviroment.HF_TOKEN=hunter2",
        "hooks.done=https://chat.example.org/hunter2",
        "hooks.done=https://chat.example.org/hunter,2",
        "hooks.done=[curl,-H,'Authorization: Bearer hunter2']",
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(here: Path, override: str) -> None:
    refused = command("sweep", "bowl.yaml", *SMALL, override, cwd=here)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "hunter" not in refused.stdout + refused.stderr
    assert not (here / "runs").exists()


def test_uncommitted_changes_are_stored_without_the_secrets_that_the_sweep_reads(here: Path) -> None:
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "train.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=here, check=True)
    plan = plan_of(here, f"{SCRIPT}\nKEY = '{SECRETS['WANDB_API_KEY']}'\n", **RUN)
    folder = plan.config.folder
    folder.create()
    take_snapshot(folder, plan.config)
    assert "+KEY = '***'" in (folder.snapshots / "1" / "changes.patch").read_text()
    assert hunters(folder.path) == []
