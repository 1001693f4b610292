"""Snapshots of code and settings, one per change; the folder is private and holds no password."""

import dataclasses
import grp
import os
import stat
import subprocess
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import ConfigError, RunFolderError
from hptransfer.core.io import file_name, read_json
from hptransfer.core.records import Scale
from hptransfer.core.run_folder import RunFolder
from hptransfer.session import snapshot
from hptransfer.trackers import TrackedSweep, _background
from hptransfer.trackers import mlflow as mlflow_tracker
from tests.support.helpers import ONE_SCALE, command, sweep_arguments, tiny

SECRET = "hunter2.very-secret"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a script in a folder of it, and one file that git does not track."""
    root = tmp_path / "code"
    (root / "lib").mkdir(parents=True)
    (root / "work").mkdir()
    (root / "lib" / "net.py").write_text("DEPTH = 1\n")
    (root / "work" / "train.py").write_text("print('one')\n")
    git(root, "init", "-q", "-b", "trunk")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    (root / "work" / "data.bin").write_text("untracked")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


def script(runs: Path, root: Path, *overrides: str, copy: bool = False) -> SweepConfig:
    config = tiny(runs, *overrides)
    return dataclasses.replace(config, run={**config.run, "runner": "script", "cwd": str(root / "work")}, snapshot=copy)


def taken(config: SweepConfig) -> RunFolder:
    config.folder.create()
    snapshot.take_snapshot(config.folder, config)
    return config.folder


def numbers(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.snapshots.iterdir())


def test_a_snapshot_says_what_was_trained_from(tmp_path: Path, repository: Path) -> None:
    (repository / "work" / "train.py").write_text("print('two')\n")
    folder = taken(script(tmp_path, repository))
    found = read_json(folder.snapshots / "1" / "snapshot.json")
    assert found["git"]["branch"] == "trunk"
    assert len(found["git"]["commit"]) == 40
    assert found["git"]["changed"] == ["work/train.py"]
    assert found["git"]["untracked"] == ["work/data.bin"]
    assert found["sweep"]["name"] == "quickstart"
    assert set(found["packages"]) >= {"torch", "mlflow", "hptransfer", "pytest"}
    patch = (folder.snapshots / "1" / "changes.patch").read_text()
    git(repository, "checkout", "-q", "--", ".")
    subprocess.run(["git", "apply"], input=patch, text=True, cwd=repository, check=True)
    assert (repository / "work" / "train.py").read_text() == "print('two')\n"


def test_only_a_change_makes_a_further_snapshot(tmp_path: Path, repository: Path) -> None:
    config = script(tmp_path, repository)
    for _ in range(2):
        assert numbers(taken(config)) == ["1"]
    (repository / "work" / "train.py").write_text("print('two')\n")
    assert numbers(taken(config)) == ["1", "2"]
    assert read_json(config.folder.environment)["snapshot"] == 2
    assert numbers(taken(script(tmp_path, repository, "seeds=2"))) == ["1", "2", "3"]


def test_a_patch_is_of_bounded_size(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_PATCH_BYTES", 300)
    (repository / "work" / "train.py").write_text("x\n" * 1000)
    patch = (taken(script(tmp_path, repository)).snapshots / "1" / "changes.patch").read_text()
    assert len(patch) < 400
    assert "cut off" in patch


def test_trials_run_in_a_copy_of_what_git_tracks(tmp_path: Path, repository: Path) -> None:
    config = script(tmp_path, repository, copy=True)
    folder = taken(config)
    (repository / "work" / "train.py").write_text("print('edited while jobs wait')\n")
    taken(config)
    place = folder.working_directory(config.run["cwd"])
    assert place == (folder.source / "work").resolve()
    assert (place / "train.py").read_text() == "print('one')\n"
    assert (place / "../lib/net.py").read_text() == "DEPTH = 1\n"
    assert not (place / "data.bin").exists()
    assert stat.S_IMODE((place / "train.py").stat().st_mode) == 0o600


def test_without_a_copy_a_script_runs_where_it_is_told_to(tmp_path: Path, repository: Path) -> None:
    assert taken(script(tmp_path, repository)).working_directory("some/where") == Path("some/where")


def test_what_cannot_be_copied_is_refused(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_SOURCE_FILES", 1)
    with pytest.raises(ConfigError, match=r"2 files .* more than 1"):
        taken(script(tmp_path, repository, copy=True))
    (tmp_path / "bare" / "work").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not in a git repository"):
        taken(script(tmp_path, tmp_path / "bare", copy=True))


def test_the_builtin_trainer_has_no_source_tree_to_copy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only run=script"):
        tiny(tmp_path, "snapshot=true")


# --- permissions ---


def modes(folder: RunFolder) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"folder": set(), "file": set()}
    for path in (folder.path, *folder.path.rglob("*")):
        kind = "folder" if path.is_dir() else "file"
        found[kind].add(stat.S_IMODE(path.stat().st_mode))
    return found


@pytest.mark.slow
def test_a_run_is_its_owners_alone(tmp_path: Path) -> None:
    """For any umask, also in the processes of workers."""
    before = os.umask(0)
    try:
        done = command(*sweep_arguments(tmp_path, "tracker=mlflow", *ONE_SCALE))
    finally:
        os.umask(before)
    folder = RunFolder(tmp_path / "quickstart")
    assert "3/3 trials" in done.stdout, done.stderr
    assert modes(folder) == {"folder": {0o700}, "file": {0o600}}


@pytest.mark.slow
def test_a_run_can_be_shared_with_a_group_and_made_private_again(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid())
    for share, mode in ((f"share={group.gr_name}", {"folder": {0o2770}, "file": {0o660}}), ("share=null", None)):
        done = command(*sweep_arguments(tmp_path, "launcher=inline", "tracker=mlflow", share))
        assert done.returncode == 0, done.stderr
        folder = RunFolder(tmp_path / "quickstart")
        assert modes(folder) == (mode or {"folder": {0o700}, "file": {0o600}})
        assert {path.stat().st_gid for path in folder.path.rglob("*")} == {group.gr_gid}


def test_a_run_of_another_user_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path)])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert f"{tmp_path} may not be read by you; its owner can share it with a group" in error


def test_a_group_that_there_is_not_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no group 'nobody-here'"):
        tiny(tmp_path).folder.create("nobody-here")


# --- passwords ---


def assert_secret_is_nowhere(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    for text in texts:
        assert SECRET not in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", [f"http://me:{SECRET}@127.0.0.1:1", f"postgresql+psycopg2://me:{SECRET}@127.0.0.1:1/x"])
def test_a_password_is_nowhere_even_when_its_server_cannot_be_reached(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_background, "FAILING_STORE_WAIT_S", 0.5)
    monkeypatch.setattr(_background, "IDLE_STORE_WAIT_S", 5.0)
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # else it holds a lock for a minute and a half
    settings = ("launcher=inline", "tracker=mlflow", f"tracker.uri='{uri}'", *ONE_SCALE)
    arguments = sweep_arguments(tmp_path, *settings)
    monkeypatch.setattr("sys.argv", ["hptransfer", *arguments])
    for words in (arguments, ["verify", str(tmp_path / "quickstart")], ["status", str(tmp_path / "quickstart")]):
        with pytest.raises(SystemExit):
            main(words)
    shown = capsys.readouterr()
    assert "not in the tracker yet" in shown.out
    assert "read it from MLFLOW_TRACKING_URI" in shown.out
    assert "is without its password; set MLFLOW_TRACKING_URI to all of it" in shown.out  # verify's
    assert "me:***@127.0.0.1:1" in (tmp_path / "quickstart" / "sweep.yaml").read_text()
    assert "me:***@127.0.0.1:1" in (tmp_path / "quickstart" / "environment.json").read_text()
    assert_secret_is_nowhere(tmp_path, shown.out, shown.err)


def test_a_stored_address_is_whole_again_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(mlflow_tracker, "MlflowTracker", lambda uri, *_: seen.append(uri))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@db/x")
    config = tiny(tmp_path, "tracker=mlflow", "tracker.uri='postgresql://me:***@db/x'")
    config.tracker.open(config.folder, TrackedSweep(name=config.name))
    assert seen == [f"postgresql://me:{SECRET}@db/x"]
    assert config.tracker.note() is None


@pytest.mark.filterwarnings("ignore")
def test_mlflow_settings_do_not_reach_the_scripts_that_train(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    mlflow_tracker.client("http://127.0.0.1:1")
    assert dict(os.environ) == before


def test_a_password_is_in_no_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [f"tracker.url=http://me:{SECRET}@h", f"tracker.uri=[http://me:{SECRET}@h", f"name=http://me:{SECRET}@h"]
    for override in bad:
        with pytest.raises(SystemExit) as end:
            main([*sweep_arguments(tmp_path, "tracker=mlflow", override)])
        assert end.value.code == 2
    monkeypatch.setattr("hptransfer.planning.plan.make_plan", lambda _: 1 / len(f"http://me:{SECRET}@h"[:0]))
    with pytest.raises(SystemExit) as end:
        main([*sweep_arguments(tmp_path, "tracker=mlflow", f"tracker.uri=http://me:{SECRET}@h")])
    assert end.value.code == 1
    shown = capsys.readouterr()
    assert "ZeroDivisionError" in shown.err
    assert_secret_is_nowhere(tmp_path, shown.out, shown.err)


def test_a_password_anywhere_else_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.data.path holds a password") as error:
        tiny(tmp_path, "run/data=token_file", f"run.data.path='http://me:{SECRET}@h'")
    assert SECRET not in str(error.value)


# --- names from outside ---


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-rf", "a\nb", "a\tb", "", " a", "a ", "x" * 121, "a;b"])
def test_a_sweep_name_is_a_plain_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name must be a plain folder name"):
        dataclasses.replace(tiny(tmp_path), name=name).check()


@pytest.mark.parametrize("key", ["../x", "a/b", "a b", "", "a\nb", "1a"])
def test_names_of_axes_are_plain(tmp_path: Path, key: str) -> None:
    config = tiny(tmp_path)
    with pytest.raises(ConfigError, match="grid: a name must be"):
        dataclasses.replace(config, grid={key: config.grid["width"]}).check()


def test_a_file_named_after_a_scale_stays_in_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    names = ["../../x", "a/../b", "x" * 500, "a\0b", "\N{SNOWMAN}", "..", "width"]
    paths = {folder.verification_of(Scale({name: 1.5})) for name in names}
    assert len(paths) == len(names)
    for path in paths:
        assert path.parent == folder.path
        assert path.resolve().is_relative_to(folder.path.resolve())
        assert len(path.name) < 200
    assert folder.verification_of(Scale({"width": 64})).name == "verification-width=64.json"
    assert file_name("a") != file_name("a/") != file_name("a_")


# --- number of files ---


@pytest.mark.slow
def test_a_trial_is_few_files(tmp_path: Path) -> None:
    """docs/clusters.md says: four files and their folder a trial, three files a job."""
    done = command(*sweep_arguments(tmp_path, "launcher=local", "tracker=none"))
    folder = RunFolder(tmp_path / "quickstart")
    trials = folder.read_trials()
    assert len(trials) == 6, done.stderr
    for trial in trials:
        assert {path.name for path in folder.trial(trial.id).iterdir()} <= {
            "trial.json",
            "lease",
            "metrics.jsonl",
            "outcome.json",
        }
    jobs = [path for path in folder.jobs.glob("*.json") if path.stem.isalnum() and path.stem != "states"]
    assert len([path for path in folder.jobs.iterdir() if path.stem != "states"]) <= 3 * len(jobs)
