"""A run folder from someone else is data: it is read, and runs nothing until it is trusted."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_json
from hptransfer.core.permissions import claim, is_foreign, require_trust
from hptransfer.core.records import Job, Scale
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.launcher import SlurmLauncher
from tests.support.helpers import finished_run
from tests.support.scripted import Scripted, drive, train
from tests.support.scripts import BOWL, plan_of
from tests.support.slow import slow_except

VALUES = ("space.lr.values=[0.004,0.0078,0.0156,0.031,0.0625]", "grid.depth.values=[2]", "grid.tokens.values=[32768]")


@pytest.fixture
def someone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which commands are another user's."""
    return lambda: monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of another user"))


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert isinstance(end.value.code, int)
    return end.value.code


def test_who_makes_a_folder_owns_it_and_trust_is_given_once(tmp_path: Path, someone_else: Callable[[], None]) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    require_trust(folder.path, trusted=False)
    someone_else()
    with pytest.raises(RunFolderError, match="was not made by you"):
        require_trust(folder.path, trusted=False)
    require_trust(folder.path, trusted=True)
    require_trust(folder.path, trusted=False)


def test_a_folder_that_was_trusted_stays_its_makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with monkeypatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path / "state of another user"))
        require_trust(folder.path, trusted=True)
    assert not is_foreign(folder.path)
    assert len(read_json(folder.path / "owner.json")["tokens"]) == 2


@pytest.mark.parametrize(
    "tokens", [None, [], ["../owned"], ["", "."], [1], "x", {"a": 1}, ["0" * 32], ["../../../../../etc/passwd"]]
)
def test_no_owner_file_makes_a_folder_ones_own(tmp_path: Path, tokens: object) -> None:
    own = RunFolder(tmp_path / "own")  # so that there is a state folder
    own.create()
    (tmp_path / "run").mkdir()
    if tokens is not None:
        write_json(tmp_path / "run" / "owner.json", {"tokens": tokens})
    assert is_foreign(tmp_path / "run")
    claim(tmp_path / "run")
    assert not is_foreign(tmp_path / "run")


def test_a_folder_that_someone_else_filled_does_not_become_ones_own_by_creation(tmp_path: Path) -> None:
    (tmp_path / "run" / "jobs").mkdir(parents=True)
    RunFolder(tmp_path / "run").create()
    assert is_foreign(tmp_path / "run")


def test_where_no_state_can_be_kept_a_run_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    folder = RunFolder(tmp_path / "run")
    folder.create()
    assert is_foreign(folder.path)
    require_trust(folder.path, trusted=True)


@pytest.mark.parametrize("place", ["jobs/aa.log", "trials/zz", "driver.log", "mlflow.db", "requests", "requests/a"])
def test_a_folder_with_links_is_not_trusted(tmp_path: Path, someone_else: Callable[[], None], place: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.path / place).parent.mkdir(exist_ok=True)
    (folder.path / place).symlink_to(tmp_path)
    someone_else()
    with pytest.raises(RunFolderError, match="is a symbolic link to"):
        require_trust(folder.path, trusted=True)
    assert is_foreign(folder.path)


def test_reading_verbs_need_no_trust_and_the_others_do(
    tmp_path: Path, someone_else: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run([f"runs={tmp_path}", "~target.depth", "~target.tokens", *VALUES])
    run, trial = str(folder.path), folder.read_trials()[0].id
    targets = tmp_path / "targets.csv"
    targets.write_text("width,depth,tokens\n512,2,32768\n")
    someone_else()
    for command in (["status", run], ["analyze", run], ["clean", run, "--yes"], ["export", run], ["logs", run, trial]):
        call(*command)
        assert "--trust" not in capsys.readouterr().err
    assert call("analyze", run, "--targets", str(targets)) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    same = ["quickstart", f"runs={tmp_path}", "~target.depth", "~target.tokens", *VALUES]
    table = tmp_path / "runs.csv"
    table.write_text("width,lr,loss\n32,0.1,3.0\n")
    refused = [["verify", run], ["retry", run], ["cancel", run, "--yes"], ["sweep", *same]]
    for command in (*refused, ["sweep", *same, "--detach"], ["import", run, str(table)]):
        assert call(*command) == 2, command
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert f"{folder.path} was not made by you" in error
        assert "--trust" in error
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before
    assert call("export", run) == 0  # it plans again, and imports nothing
    assert call("retry", run, "--trust") == 0
    assert call("retry", run) == 0


COSTS = "import pathlib\npathlib.Path({ran!r}).mkdir()\ndef params(width):\n    return width\n"


def test_analysis_and_export_import_nothing_of_a_foreign_run(
    tmp_path: Path, someone_else: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "costs.py").write_text("def params(width):\n    return width\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    plan = plan_of(tmp_path, BOWL, params="costs:params", tokens=1000)
    drive(plan.config, Scripted(train))
    folder = plan.config.folder
    (tmp_path / "costs.py").write_text(COSTS.format(ran=str(ran)))
    sys.modules.pop("costs")
    targets = tmp_path / "targets.csv"
    targets.write_text("width\n512\n")
    someone_else()
    for command in (["status"], ["analyze"], ["clean", "--yes"], ["export"]):
        assert call(command[0], str(folder.path), *command[1:]) == 0
    assert call("analyze", str(folder.path), "--targets", str(targets)) == 0
    assert call("export", str(folder.path)) == 2
    assert call("verify", str(folder.path)) == 2
    assert not ran.exists()
    assert call("export", str(folder.path), "--trust") == 0  # the control
    assert ran.exists()


def job_folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


BAD_JOBS = [
    {"scheduler": "--user=root"},
    {"scheduler": "12 --user=root"},
    {"scheduler": 12},
    {"attempt": "1); touch ran; ("},
    {"attempt": 0},
    {"attempt": True},
    {"trials": ["../../../home"]},
    {"trials": [".."]},
    {"trials": [["a"]]},
    {"id": "../aa11"},
]


@pytest.mark.parametrize("change", BAD_JOBS)
def test_a_job_that_could_reach_a_shell_or_another_folder_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = job_folder(tmp_path)
    job = {"id": "aa11", "trials": ["t1"], "scale": {"width": 1}, "params": 1, "flops": 1.0, "scheduler": "12_3"}
    write_json(folder.job_path("aa11"), job)
    assert folder.read_job("aa11").scheduler == "12_3"
    write_json(folder.job_path("aa11"), job | change)
    with pytest.raises(RunFolderError, match=r"aa11\.json is damaged"):
        folder.read_job("aa11")


@pytest.mark.parametrize("number", ["root", "12_", "1.batch", "12,13", "12_3_4"])
def test_slurm_is_asked_for_its_own_numbers_alone(tmp_path: Path, number: str) -> None:
    folder = job_folder(tmp_path)
    values = {"trials": ["t1"], "scale": Scale({"width": 1}), "params": 1, "flops": 1.0}
    launcher = SlurmLauncher(folder, SlurmConfig())
    assert launcher.adopt([Job(id="aa11", scheduler="12_3", **values)]) == {"aa11"}  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="scheduler must be a SLURM job such as 1234_5, got"):
        launcher.adopt([Job(id="bb22", scheduler=number, **values)])  # type: ignore[arg-type]


@pytest.mark.parametrize("node", ["n1\n#SBATCH --uid=root", "--foo", "$(touch ran)", "n1 n2", ""])
def test_excluded_nodes_are_names_of_nodes(tmp_path: Path, node: str) -> None:
    folder = job_folder(tmp_path)
    states = {"jobs": {}, "checked": 0.0, "excluded": {"n[1-3],gpu-4.cluster": "bad"}, "calls": {}}
    write_json(folder.jobs / "states.json", states)
    SlurmLauncher(folder, SlurmConfig())
    write_json(folder.jobs / "states.json", states | {"excluded": {node: "bad"}})
    with pytest.raises(RunFolderError, match="excluded node"):
        SlurmLauncher(folder, SlurmConfig())


def test_a_trial_of_another_id_is_refused(tmp_path: Path) -> None:
    folder = finished_run([f"runs={tmp_path}", "~target.depth", "~target.tokens", *VALUES])
    first, second = folder.read_trials()[:2]
    path = folder.trial(first.id) / "trial.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "../../" + second.id}))
    with pytest.raises(RunFolderError, match="its id"):
        folder.read_trial(first.id)


@pytest.mark.parametrize("cwd", ["../..", "/etc", os.pardir])
def test_a_copied_source_is_run_within_the_run_folder(tmp_path: Path, cwd: str) -> None:
    folder = job_folder(tmp_path)
    (folder.source / "code").mkdir(parents=True)
    write_json(folder.source_origin, {"root": "/", "cwd": "code"})
    assert folder.working_directory("/anywhere") == (folder.source / "code").resolve()
    write_json(folder.source_origin, {"root": "/", "cwd": cwd})
    with pytest.raises(RunFolderError, match="cwd must be below"):
        folder.working_directory("/anywhere")


ODD_PLACES = [
    "trials/{trial}/outcome.json",
    "trials/{trial}/trial.json",
    "trials/{trial}/traceback.txt",
    "target.json",
    "prediction.json",
    "fit.json",
    "finished.jsonl",
    "driver.json",
    "jobs/states.json",
    "jobs/aa11.json",
    "jobs/aa11.log",
    "owner.json",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with an analysis and a job."""
    folder = finished_run([f"runs={tmp_path_factory.mktemp('runs')}", "~target.depth", "~target.tokens", *VALUES])
    trial = folder.read_trials()[0]
    folder.write_job(Job(id="aa11", trials=[trial.id], scale=trial.scale, params=1, flops=1.0))
    assert call("analyze", str(folder.path)) == 0
    return folder


@pytest.mark.parametrize("kind", slow_except(["pipe", "folder", "large"], "pipe"))
@pytest.mark.parametrize("place", ODD_PLACES)
def test_a_pipe_a_folder_or_a_large_file_is_one_line_at_most(
    tmp_path: Path, finished: RunFolder, capsys: pytest.CaptureFixture[str], place: str, kind: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, folder.path)
    trial = folder.read_trials()[0].id
    path = folder.path / place.format(trial=trial)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 3 << 30)
    for verb in (["status"], ["logs", trial], ["export"], ["retry"], ["clean", "--yes"]):
        call(verb[0], str(folder.path), *verb[1:])
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert len(error.splitlines()) <= 1


@pytest.mark.parametrize("name", ["records.csv", "optima.csv", "fit.json", "report.html"])
def test_a_folder_in_the_place_of_a_result_is_one_line(
    tmp_path: Path, finished: RunFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert call("analyze", str(folder)) == 2
    assert f"{folder / name} is" in capsys.readouterr().err
