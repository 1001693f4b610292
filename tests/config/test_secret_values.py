"""Secrets that are written out are refused with the way out; references are kept; other variables are resolved."""

import os
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hptransfer.config.compose import compose
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import digest
from tests.support.scripts import write_sweep


def composed(folder: Path, *overrides: str) -> SweepConfig:
    """The sweep of a script with overrides."""
    return compose(str(write_sweep(folder, cwd=str(folder))), overrides)


REFUSED = [
    ("+run.environment.WANDB_API_KEY=hunter", "run.environment.WANDB_API_KEY", "export WANDB_API_KEY and leave it out"),
    ("+run.environment.DB_PASSWORD=12345678", "run.environment.DB_PASSWORD", "DB_PASSWORD='${oc.env:DB_PASSWORD}'"),
    ("+run.environment.OPTIONS='--api-key=hunter'", "run.environment.OPTIONS", "export OPTIONS"),
    ("++run.environment={GITHUB_TOKEN: hunter}", "run.environment.GITHUB_TOKEN", "export GITHUB_TOKEN"),
    ("run.command=[python,train.py,--token,hunter2hunter2]", "run.command[3]", "write '${oc.env:NAME}' there"),
    ("run.command=[python,train.py,'--api_key=hunter']", "run.command[2]", "write '${oc.env:NAME}' there"),
    ("+run.names.hf_token=hunter2hunter2", "run.names.hf_token", "under run.environment"),
    ("+run.names.hf_token='${oc.env:HF_TOKEN}'", "run.names.hf_token", "under run.environment"),
    ("hooks.done=https://chat.example.org/hunter", "hooks.done", "write '${oc.env:SWEEP_HOOK}'"),
    ("hooks.done=[curl,https://chat.example.org/hunter]", "hooks.done[1]", "write '${oc.env:SWEEP_HOOK}'"),
    ("hooks.blocked=[curl,-H,'Authorization: Bearer hunter']", "hooks.blocked[2]", "write '${oc.env:SWEEP_HOOK}'"),
    ("runs='${oc.env:HF_TOKEN}'", "runs", "give it another name"),
    (
        "+run.environment.HF_TOKEN='${oc.env:HF_TOKEN,hunter}'",
        "run.environment.HF_TOKEN",
        "='${oc.env:HF_TOKEN}'",
    ),
    ("+run.environment.HF_TOKEN='${oc.env:NO_TOKEN}'", "run.environment.HF_TOKEN", "NO_TOKEN is not set; export it"),
]


@pytest.mark.parametrize(("override", "place", "way_out"), REFUSED)
def test_a_secret_that_would_be_stored_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, place: str, way_out: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter-of-environment")
    with pytest.raises(ConfigError, match=f"^{re.escape(place)}.*{re.escape(way_out)}") as caught:
        composed(tmp_path, override)
    assert "hunter" not in str(caught.value)


def test_a_secret_in_the_sweep_file_is_refused(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, cwd=str(tmp_path), environment={"AWS_SECRET_ACCESS_KEY": "hunter"})
    with pytest.raises(ConfigError, match=r"run.environment.AWS_SECRET_ACCESS_KEY holds what looks like a secret"):
        compose(str(path))
    path = write_sweep(tmp_path, cwd=str(tmp_path), environment={"HF_TOKEN": "${oc.env:HF_TOKEN,hunter}"})
    with pytest.raises(ConfigError, match=r"HF_TOKEN: the secret HF_TOKEN cannot have a default") as caught:
        compose(str(path))
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("launcher.setup=['export WANDB_API_KEY=hunter']", "launcher.setup[0]"),
        ("launcher.wrapper='apptainer exec --env HF_TOKEN=hunter image.sif'", "launcher.wrapper"),
        ("+launcher.sbatch.export='ALL,WANDB_API_KEY=hunter'", "launcher.sbatch.export"),
        ("launcher.setup=['export X=${oc.env:HF_TOKEN}']", "launcher.setup[0]"),
    ],
)
def test_a_batch_script_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, place: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter-of-environment")
    with pytest.raises(ConfigError, match=f"^{re.escape(place)} .*write \\$NAME there") as caught:
        composed(tmp_path, "launcher=slurm", override)
    assert "hunter" not in str(caught.value)
    read_by_the_shell = "launcher.setup=['export WANDB_API_KEY=$MY_KEY','export HF_TOKEN=$(cat token)']"
    assert composed(tmp_path, "launcher=slurm", read_by_the_shell)


def test_other_names_and_values_are_no_secrets(tmp_path: Path) -> None:
    long = "a-long-word-with-123"
    run = {
        "metric": {"key": long},
        "names": {
            "monkey": long,
            "keyboard": long,
            "author": long,
            "pad_token": "<pad>",
            "mixer_key": "dot",
            "token": 8,
        },
        "environment": {"TOKENIZERS": long, "NUM_TOKENS": "512", "AUTH_MODE": "none", "NO_IMPLICIT_TOKEN": "1"},
        "command": [
            "python",
            "train.py",
            "{lr}",
            "{width}",
            "--sort-key=length",
            "--api-key={width}",
            "--pad-token",
            "<pad>",
        ],
    }
    compose(str(write_sweep(tmp_path, cwd=str(tmp_path), **run)))


def test_references_are_kept_and_other_variables_resolved_with_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "PLACE", "PARTITION"):
        monkeypatch.setenv(name, f"value-of-{name.lower()}")
    environment = {
        "TOKEN_OF_HUB": "Bearer ${oc.env:PLACE}",
        "PLAIN": "${oc.env:HF_TOKEN}",
        "DATA": "${oc.env:PLACE}/data",
        "COPY": "${run.environment.PLAIN}",
        "DEFAULT": "${oc.env:NOT_SET_AT_ALL,of-default}",
    }
    config = compose(str(write_sweep(tmp_path, cwd=str(tmp_path), environment=environment)))
    assert config.run["environment"] == {
        "TOKEN_OF_HUB": "Bearer ${oc.env:PLACE}",
        "PLAIN": "${oc.env:HF_TOKEN}",
        "DATA": "value-of-place/data",
        "COPY": "${oc.env:HF_TOKEN}",
        "DEFAULT": "of-default",
    }
    assert config.variables == {"PLACE": digest("value-of-place"), "NOT_SET_AT_ALL": digest("of-default")}
    assert composed(tmp_path).variables == {}
    # Other programs of this process have OmegaConf's own resolver again.
    assert OmegaConf.create({"a": "${oc.env:HF_TOKEN}"}).a == os.environ["HF_TOKEN"]


def test_a_trackers_address_may_have_a_password_from_a_variable_and_no_other_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    config = composed(tmp_path, "tracker=mlflow", "tracker.uri='postgresql://me:${oc.env:DB_PASSWORD}@db/x'")
    assert config.tracker.uri == "postgresql://me:hunter2hunter2@db/x"
    with pytest.raises(ConfigError, match=r"tracker.uri has a secret outside its password"):
        composed(tmp_path, "tracker=mlflow", "tracker.uri='http://db/${oc.env:DB_PASSWORD}'")


def test_digests_are_the_tools_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="variables is written by the tool itself"):
        composed(tmp_path, "+variables.PLACE=abc")
