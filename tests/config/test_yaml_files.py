"""Unquoted YAML: text stays as it is written, and numbers in base 60 or 8 are refused; files are bounded."""

import re
from pathlib import Path

import pytest

from hptransfer.config.compose import compose
from hptransfer.config.sweep import load_sweep
from hptransfer.core.errors import ConfigError, RunFolderError
from hptransfer.core.run_folder import RunFolder

HEAD = "defaults: [sweep, run: script, sampler: grid, launcher: slurm, tracker: none, _self_]\nname: s\n"
REST = "grid: {width: {values: [32, 64]}}\nspace: {lr: {low: 0.001, high: 0.1, count: 5}}\ntarget: {width: 128}\n"
RUN = 'run: {command: [python, train.py, "{width}", "{lr}"], params: width, tokens: 1000}\n'
DOUBLED = "".join(f'z{k}: "{f"${{run.names.z{k - 1}}}" * 2}", ' for k in range(1, 27))
ALIASES = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}], " for k in range(1, 7))


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("launcher: {time: 1:30:00}", 'line 7: YAML reads 1:30:00 in base 60 as 5400; quote it as "1:30:00"'),
        ("launcher: {time: 30:00}", 'YAML reads 30:00 in base 60 as 1800; quote it as "30:00"'),
        ("launcher: {by_scale: [{when: width > 40, time: 2:00:00}]}", "YAML reads 2:00:00 in base 60 as 7200"),
        ("launcher: {memory: 16:00}", "in base 60 as 960"),
        ("launcher: {driver_time: 24:00:00}", "in base 60 as 86400"),
        ("launcher: {sbatch: {begin: 16:00.5}}", "in base 60 as 960.5"),
        ("seeds: 010", 'line 7: YAML reads 010 in base 8 as 8; write 10, or "010" if it is text'),
        ("launcher: {account: 0077}", 'write 77, or "0077" if it is text'),
        ("launcher: {sbatch: {on: x}}", 'YAML reads on as the key True; quote it as "on"'),
    ],
)
def test_a_number_in_base_60_or_8_is_refused_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        compose(written(tmp_path, f"{HEAD}{RUN}{REST}{line}\n"))


def test_a_preset_is_checked_like_the_sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "launcher").mkdir(parents=True)
    preset = tmp_path / "configs" / "launcher" / "ours.yaml"
    monkeypatch.chdir(tmp_path)
    text = HEAD.replace("launcher: slurm", "launcher: ours") + RUN + REST
    preset.write_text("defaults: [slurm]\ntime: 1:30:00\n")
    with pytest.raises(ConfigError, match=r"ours\.yaml: line 2: YAML reads 1:30:00"):
        compose(written(tmp_path, text))
    preset.write_text("defaults: [slurm]\npartition: 1e5\n")
    assert compose(written(tmp_path, text)).launcher.partition == "1e5"


def test_text_is_what_is_written(tmp_path: Path) -> None:
    words = ["on", "true", "3.10", "1e-4", "1_0", "0x1F", "2024-01-01", "1.0"]
    command = f"[python, train.py, {', '.join(words)}, '{{width}}', '{{lr}}', '{{seed}}']"
    run = f"run: {{command: {command}, params: width, environment: {{WANDB_MODE: off, A: &a 3.10, B: *a}}}}\n"
    path = written(tmp_path, HEAD + run + REST)
    config = compose(path)
    assert config.run["command"][2:-3] == words
    assert config.run["environment"] == {"WANDB_MODE": "off", "A": "3.10", "B": "3.10"}
    changed = compose(path, ["name=1e5", "run.command=[python,3.10,True,'{width}']", "+run.environment.C=010"])
    assert (changed.name, changed.run["command"]) == ("1e5", ["python", "3.10", "True", "{width}"])
    assert changed.run["environment"]["C"] == "010"
    assert compose(path, ["name=größe"]).name == "größe"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (f"run: {{names: {{x: {'[' * 60}{']' * 60}}}}}", "is nested more than 50 levels deep"),
        (f"x: {'[' * 3000}{']' * 3000}", "exceeded maximum nesting depth"),
        (f"x: {{a0: &a0 [1, 1, 1], {ALIASES}}}", "more than 5,000 values, with aliases written out"),
        ("x: &a [*a]", "*a is inside its own value"),
        (f"x: {'a' * 200_000}", "it is longer than 200,000 bytes"),
        (f"run: {{command: [a], names: {{z0: xxxxxxxxxx, {DOUBLED}}}}}", "grow beyond 1,000,000 characters"),
        ("grid: [1, 2]", "grid must have keys, got [1, 2]"),
        ("launcher: [1]", "launcher must have keys, got [1]"),
        (f"seeds: {'1' * 5000}", "cannot be read: Exceeds the limit"),
    ],
)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path, part: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(written(tmp_path, f"{HEAD}{part}\n"))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_override_is_bounded(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + RUN + REST)
    with pytest.raises(ConfigError, match=r"override 'space\.lr\.values' is longer than 5,000 characters"):
        compose(path, [f"space.lr.values=[{'1,' * 3000}]"])
    with pytest.raises(ConfigError, match="an override cannot be read"):
        compose(path, [f"space.lr.values={'[' * 2000}{']' * 2000}"])
    with pytest.raises(ConfigError, match=r"'launcher=local,inline' has several values; choose one"):
        compose(path, ["launcher=local,inline"])


def test_a_sweep_file_beside_a_runs_own_finds_the_schema(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: other\n")
    assert compose(written(tmp_path, HEAD + RUN + REST)).name == "s"


def test_a_run_folders_sweep_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(f"x: {{a0: &a0 [1, 1, 1], {ALIASES}}}\n")
    with pytest.raises(RunFolderError, match="more than 100,000 values"):
        load_sweep(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("space.lr.count=100_000_000", "space.lr has 100,000,000 values, at most 1,000 are possible"),
        ("seeds=1_000_000_000", "seeds has 1,000,000,000 repeats of a trial, at most 10,000 are possible"),
        ("grid.width.values=[32,1e300]", "grid.width.values must be from 1e-30 to 1e30, got 1e300"),
        ("target.width=1e300", "target.width must be from 1e-30 to 1e30, got 1e300"),
        ("space.lr.values=[0.1,0.1000000000000001,1]", "0.1 and 0.1000000000000001 agree to twelve digits"),
        ("grid.width.values=[0.1,0.1000000000000001]", "0.1 and 0.1000000000000001 agree to twelve digits"),
        ("launcher.time=1:2:3:4:5", "launcher.time must be a time, such as 90 (minutes), '1:30:00' or '1-12:00:00'"),
        ("launcher.time=inf", "launcher.time must be above 0 and at most 2147483647"),
        ("launcher.gpus=inf", "launcher.gpus must be at least 0 and at most 2147483647, got inf"),
        ("launcher.memory=nan", "launcher.memory must be above 0 and at most 2147483647"),
        ("launcher.poll_max_s=inf", "launcher.poll_max_s must be at least poll_min_s (30), got inf"),
        (
            "run.command=[python,null]",
            'run.command[1] must have a value, null is none; quote it as "null" if it is text',
        ),
    ],
)
def test_a_value_beyond_its_limit_is_one_line(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(written(tmp_path, HEAD + RUN + REST), [override])
    assert says in str(error.value)
