"""`clean` removes files that are no longer needed, and no others."""

import json
import os
import time
from pathlib import Path

import pytest

from hptransfer.analysis.pipeline import analyze_run
from hptransfer.cli.main import main
from hptransfer.core.locks import lock
from hptransfer.core.records import Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.monitor.clean import find_removable
from tests.support.helpers import finished_run

LEFT_OVER = ".sweep.yaml.0123abcd.unfinished"
VALUES = ("space.lr.values=[0.004,0.0078,0.0156,0.031,0.0625]", "grid.depth.values=[2]", "grid.tokens.values=[32768]")


def run_with_waste(runs: Path) -> tuple[RunFolder, set[Path], set[Path]]:
    """Return a finished run, its removable files, and similar files that must be kept."""
    folder = finished_run([f"runs={runs}", "~target.depth", "~target.tokens", *VALUES])
    trials = folder.read_trials()
    open_trial = trials[-1].id
    folder.outcome_path(open_trial).unlink()
    done = [trial for trial in trials if trial.id != open_trial]
    jobs = {"aa11": [trial.id for trial in done], "bb22": [done[0].id, open_trial]}
    for name, ids in jobs.items():
        folder.write_job(Job(id=name, trials=ids, scale=trials[0].scale, params=1, flops=1.0))
    old = time.time() - 7200
    goes = {folder.lease(trial.id) for trial in done} | {
        folder.jobs / "aa11.0.checkpoint",
        folder.path / "mlflow.db.set-aside-1",
        folder.path / LEFT_OVER,
    }
    stays = {
        folder.lease(open_trial),
        folder.jobs / "bb22.0.checkpoint",
        folder.path / ".fit.json.0123abcd.unfinished",  # its writer may still write
    }
    for path in goes | stays:
        path.write_text("x" * 1000)
    os.utime(folder.path / LEFT_OVER, (old, old))
    for name in jobs:
        (folder.jobs / f"{name}.log").write_text("said\n")
    return folder, goes, stays


def files(folder: RunFolder) -> set[Path]:
    return {path for path in folder.path.rglob("*") if path.is_file()}


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["clean", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_what_is_not_needed_goes_and_the_analysis_stays_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, goes, stays = run_with_waste(tmp_path)
    analyze_run(folder)
    fit, before = (folder.path / "fit.json").read_bytes(), files(folder)
    assert call(str(folder.path), "--yes") == 0
    out = capsys.readouterr().out
    assert f"{len(goes) - 3} files" in out
    assert "leases of finished trials" in out
    assert before - files(folder) == goes | ({folder.driver_lock} - files(folder))
    assert stays <= files(folder)
    analyze_run(folder)
    assert (folder.path / "fit.json").read_bytes() == fit
    assert call(str(folder.path), "--yes") == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_logs_go_on_request_and_those_of_open_jobs_stay(tmp_path: Path) -> None:
    folder, _, _ = run_with_waste(tmp_path)
    assert call(str(folder.path), "--yes", "--logs") == 0
    assert {path.name for path in folder.jobs.glob("*.log")} == {"bb22.log"}


def test_without_an_answer_nothing_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    assert call(str(folder.path)) == 2
    assert "--yes removes without asking" in capsys.readouterr().err
    assert goes <= files(folder)


def test_a_run_that_is_driven_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    with lock(folder.driver_lock):
        assert call(str(folder.path), "--yes") == 5
    assert "is being driven" in capsys.readouterr().err
    assert goes <= files(folder)


def test_sizes_are_said(tmp_path: Path) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    with lock(folder.driver_lock):
        assert sum(one.bytes for one in find_removable(folder, logs=False)) == 1000 * len(goes)


def test_age_is_by_the_clock_of_the_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control is the first test: a file of two hours ago is removed."""
    folder, _, _ = run_with_waste(tmp_path)
    fresh = folder.path / ".fit.json.0123abcd.unfinished"
    monkeypatch.setattr(time, "time", lambda: fresh.stat().st_mtime + 7200)
    assert call(str(folder.path), "--yes") == 0
    assert fresh.exists()


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (0, 0), follow_symlinks=False)


def test_files_of_the_user_stay_whatever_their_names(tmp_path: Path) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    trial = folder.read_trials()[0].id
    names = [".gitignore", ".git/config", ".notes", "jobs/.todo", f"trials/{trial}/.note", ".venv/.fit.json.0123abcd"]
    names += ["notes.set-aside-1", "jobs/.log", "jobs/aa11-plot.log", "jobs/aa11.checkpoint.txt", ".fit.json.xyz"]
    own = [folder.path / name for name in names]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    make_old(*own, folder.path / ".git", folder.path / ".venv")
    assert call(str(folder.path), "--yes", "--logs") == 0
    assert [path for path in own if not path.exists()] == []
    assert not any(path.exists() for path in goes)


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    folder, _, _ = run_with_waste(tmp_path)
    home = tmp_path / "home"
    kept = [home / ".ssh" / "id", home / ".config", home / LEFT_OVER, home / "lease", home / "aa11.0.checkpoint"]
    kept.append(home / "outcome.json")
    for path in kept:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("mine")
    folder.snapshots.mkdir(exist_ok=True)
    for link in (folder.path / "trials" / "zz", folder.snapshots / "zz", folder.path / ".source.unfinished"):
        link.symlink_to(home)
    (folder.path / "requests").symlink_to(home)
    (folder.path / ".fit.json.0123abcd.unfinished").unlink()
    (folder.path / ".fit.json.0123abcd.unfinished").symlink_to(home / ".config")
    make_old(*kept, home / ".ssh", *folder.path.glob(".*"))
    assert call(str(folder.path), "--yes", "--logs") == 0
    assert [path for path in kept if not path.exists()] == []
    assert (folder.path / ".fit.json.0123abcd.unfinished").is_symlink()


def test_a_run_folder_that_is_itself_a_link_is_cleaned(tmp_path: Path) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    (tmp_path / "short").symlink_to(folder.path)
    assert call(str(tmp_path / "short"), "--yes") == 0
    assert not any(path.exists() for path in goes)


@pytest.mark.parametrize("verb", [["clean", "--yes"], ["cancel", "--yes"]])
@pytest.mark.parametrize("kind", ["link", "pipe", "hard link"])
def test_nothing_is_written_to_a_lock_that_is_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str], kind: str
) -> None:
    folder, goes, _ = run_with_waste(tmp_path)
    own = tmp_path / "mine"
    own.write_text("mine")
    folder.driver_lock.unlink(missing_ok=True)
    if kind == "link":
        folder.driver_lock.symlink_to(own)
    elif kind == "pipe":
        os.mkfifo(folder.driver_lock)
    else:
        os.link(own, folder.driver_lock)
    with pytest.raises(SystemExit) as end:
        main([verb[0], str(folder.path), *verb[1:]])
    assert end.value.code == 2
    reasons = {"link": "a symbolic link", "pipe": "not a regular file", "hard link": "a hard link"}
    assert f"{folder.driver_lock} is {reasons[kind]}" in capsys.readouterr().err
    assert own.read_text() == "mine"
    assert goes <= files(folder)


@pytest.mark.slow
def test_a_linked_folder_of_figures_loses_and_gets_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = run_with_waste(tmp_path)
    analyze_run(folder)
    elsewhere = tmp_path / "pictures"
    elsewhere.mkdir()
    (elsewhere / "holiday.png").write_text("mine")
    (folder.path / "figures").symlink_to(elsewhere)
    (folder.path / "tables").symlink_to(tmp_path / "nothing")
    fit = json.loads((folder.path / "fit.json").read_text())
    (folder.path / "fit.json").write_text(json.dumps({**fit, "files": ["figures/holiday.png"]}))
    analyze_run(folder)
    for kind, name in (("svg", "figures"), ("csv", "tables")):
        with pytest.raises(SystemExit) as end:
            main(["analyze", str(folder.path), "--format", kind])
        assert end.value.code == 2
        assert f"{name} is a symbolic link" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"holiday.png": "mine"}
