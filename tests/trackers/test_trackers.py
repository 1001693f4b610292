"""MLflow shows what the trial folders hold, once, however often it is written."""

import base64
import contextlib
import json
import re
import shutil
import sqlite3
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from hptransfer.core.io import read_jsonl, write_json
from hptransfer.core.records import CANCELLED, FAILED, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.testing.trackers import OUTCOME, finished_trial, prepared_folder
from hptransfer.trackers import BackgroundTracker, TrackedSweep, _background
from hptransfer.trackers._views import COLORS
from hptransfer.trackers.mlflow import MlflowConfig, MlflowTracker, TrackedRun, _trial_tags, embedded_store
from tests.support.helpers import ONE_SCALE, process, sweep_arguments, tiny
from tests.support.views import assert_mlflow_agrees, studies
from tests.support.views import mlflow_runs as shown
from tests.support.views import sweep as run
from tests.support.waiting import wait_until

# MLflow's own libraries warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_mlflow_shows_every_trial_once_and_again_changes_nothing(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", "space.lr.values=[0.004,0.015,1e5]")
    run(config)
    assert_mlflow_agrees(config.folder)
    run(config)
    assert_mlflow_agrees(config.folder)


@pytest.mark.slow
def test_what_a_model_reports_of_itself_is_shown_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, "tracker=mlflow", "run/model=moe", *ONE_SCALE)
    run(config)
    client, runs = shown(config.folder)
    printed = capsys.readouterr().out
    trials = [one for one in runs if one.data.tags["trial"] != "sweep"]
    assert trials
    for one in trials:
        curve = [(p["step"], p["expert_load"]) for p in read_jsonl(config.folder.curve_path(one.data.tags["trial"]))]
        history = client.get_metric_history(one.info.run_id, "expert_load")
        assert sorted((m.step, m.value) for m in history) == curve
        assert f"step {curve[-1][0]} loss" in printed
        assert f"expert_load {curve[-1][1]:.4g}" in printed


def test_scales_that_print_alike_have_different_tags() -> None:
    scales = [Scale({"tokens": tokens}) for tokens in (1.00011, 1.00012)]
    trials = [Trial(id="x", scale=scale, tuned={}, seed=0, run={}, flops=1.0, params=1) for scale in scales]
    assert trials[0].scale.name == trials[1].scale.name
    first, second = (_trial_tags(trial) for trial in trials)
    assert {key: (first[key], second[key]) for key in first if first[key] != second[key]} == {
        "tokens": ("1.00011", "1.00012"),
        "scale": ("tokens=1.00011", "tokens=1.00012"),
    }


NAMES = {
    "acc@1": r"acc_1-\w{8}",
    "top-1 (%)": r"top-1 ___-\w{8}",
    "/abs": r"_abs-\w{8}",
    "a//b": r"a__b-\w{8}",
    "..": r"-\w{8}",
    "val\n": r"val_-\w{8}",
    "m" * 251: r"m{200}-\w{8}",
    "gro\u0308\u00dfe": r"gro_ße-\w{8}",
    "größe": "größe",
    "val/acc: top 1": "val/acc: top 1",
    "train_loss": "reported_train_loss",
    "seconds": "reported_seconds",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder with an empty store, which takes a second to make."""
    folder = prepared_folder(tmp_path_factory.mktemp("runs") / "run")
    embedded_store(folder)
    return folder


def test_a_store_of_another_version_says_the_way_out(made: RunFolder, tmp_path: Path) -> None:
    other = prepared_folder(tmp_path / "other")
    shutil.copy(made.mlflow, other.mlflow)
    with contextlib.closing(sqlite3.connect(other.mlflow)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'feedbeef'")
    background = BackgroundTracker(lambda: MlflowConfig().open(other, TrackedSweep(name="other")), other)
    wait_until(lambda: background.missing, "the tracker's problem")
    background.close(0.0)
    said = str(background.missing)
    assert f"the store sqlite:///{other.mlflow} was made by another version of MLflow (found version feedbeef" in said
    assert f"`mlflow db upgrade sqlite:///{other.mlflow}`" in said
    assert said.endswith("is then made again from the trial folders")


def test_a_name_that_mlflow_refuses_is_mapped_and_holds_nothing_back(made: RunFolder) -> None:
    trial = finished_trial(made, "one")
    curve = [
        row | {name: row["step"] + k for k, name in enumerate(NAMES)} for row in read_jsonl(made.curve_path("one"))
    ]
    tracker = MlflowConfig().open(made, TrackedSweep(name="run"))
    assert tracker is not None
    tracker.log(trial, OUTCOME, curve)
    client, runs = shown(made)
    (one,) = (run for run in runs if run.data.tags["trial"] == "one")
    assert one.info.status == "FINISHED"
    assert (one.data.metrics["loss"], one.data.metrics["train_loss"]) == (OUTCOME.loss, 1.0)
    for k, pattern in enumerate(NAMES.values()):
        (name,) = (name for name in one.data.metrics if re.fullmatch(pattern, name))
        assert [point.value for point in client.get_metric_history(one.info.run_id, name)] == [k, 1 + k, 2 + k]


WIDTHS = [Scale({"width": width, "depth": 2}) for width in (64, 128)]
TUNED = {"lr": 0.01}


def logged(folder: RunFolder, name: str, outcome: Outcome, *, widths: list[Scale] = WIDTHS) -> Any:
    """The run in the store of a trial of the first width, whose curve has three points a second apart."""
    trial = replace(finished_trial(folder, name), scale=WIDTHS[0], tuned=TUNED)
    tracker = MlflowConfig().open(folder, TrackedSweep(name="run", scales=widths, tuned=("lr",)))
    assert tracker is not None
    curve = read_jsonl(folder.curve_path(name))
    tracker.follow(trial, curve[:1])
    tracker.log(trial, outcome, curve)
    tracker.close()
    return next(run for run in shown(folder)[1] if run.data.tags["trial"] == name)


def test_a_run_takes_the_time_of_its_trial_and_puts_first_what_differs(made: RunFolder) -> None:
    one = logged(made, "timed", replace(OUTCOME, seconds=82.0))
    assert one.info.end_time - one.info.start_time == 82_000
    assert one.info.run_name == "width=64 lr=0.01 seed=0 depth=2"


def test_a_cancelled_trial_is_not_shown_as_failed(made: RunFolder) -> None:
    stopped = Outcome(state=FAILED, cause=CANCELLED, error="cancelled")
    one = logged(made, "stopped", stopped)
    assert (one.info.status, one.data.tags["state"]) == ("KILLED", "cancelled")


def saved_view(folder: RunFolder) -> dict[str, Any]:
    client, _ = shown(folder)
    tag = client.get_experiment_by_name(folder.path.name).tags["mlflow.sharedViewState.trials"]
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(tag.removeprefix("deflate;"))))
    return state


def test_the_page_shows_the_final_loss_by_value_and_scale(made: RunFolder) -> None:
    one = logged(made, "colored", OUTCOME)
    visible = [chart for chart in saved_view(made)["compareRunCharts"] if not chart["deleted"]]
    assert [chart["type"] for chart in visible] == ["SCATTER", "PARALLEL", "LINE"]
    by_value, parallel, _ = visible
    assert (by_value["xaxis"]["key"], by_value["yaxis"]["key"]) == ("settings/log2_lr", "loss")
    assert parallel["selectedMetrics"] == ["settings/width", "settings/log2_lr", "loss"]
    charted = {name for chart in visible for name in (*parallel["selectedMetrics"], chart.get("metricKey"))}
    hidden = {chart["metricKey"] for chart in saved_view(made)["compareRunCharts"] if chart["deleted"]}
    assert set(one.data.metrics) <= charted | hidden
    assert "loss_se" in hidden


def test_scales_have_colors_also_after_a_smaller_one_was_added(made: RunFolder) -> None:
    def color(run: Any) -> str:
        return str(run.data.tags["mlflow.runColor"])

    before = color(logged(made, "blue", OUTCOME))
    smaller = [Scale({"width": 32, "depth": 2}), *WIDTHS]
    after = color(logged(made, "blue", OUTCOME, widths=smaller))
    assert (before, after) == tuple(COLORS[:2])


def test_tags_hold_no_password() -> None:
    """The error of a failed trial is a tag of its run, and its note."""
    client = MagicMock()
    tracker = MlflowTracker.__new__(MlflowTracker)
    sweep = TrackedSweep(name="a")
    tracker.__dict__.update(_client=client, _experiment="1", _parent="2", _name="a", _settings={}, _runs={})
    tracker.__dict__.update(_sweep=sweep, _colors={})
    scale = Scale({"width": 16})
    trial = Trial(id="x", scale=scale, tuned={"lr": 0.1}, seed=0, run={}, flops=1.0, params=1)
    error = "cannot reach postgresql://me:hunter2@db/x"
    tracker.log(trial, Outcome(state=FAILED, cause="code error", error=error), [])
    tags = {tag.key: tag.value for call in client.log_batch.call_args_list for tag in call.kwargs["tags"]}
    assert tags["error"] == "cannot reach postgresql://me:***@db/x"
    assert "hunter2" not in str([call.kwargs for call in client.method_calls])
    assert all("hunter2" not in value for value in tags.values())


@pytest.mark.slow
def test_a_write_that_was_cut_off_is_completed_without_doubled_points(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    client, runs = shown(config.folder)
    for one in runs:
        if one.data.tags["trial"] != "sweep":
            client.update_run(one.info.run_id, status="RUNNING")  # as if killed before the last call
    run(config)
    assert_mlflow_agrees(config.folder)


@pytest.mark.slow
def test_a_run_that_was_made_and_no_more_gets_all_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    write, cut_off = MlflowTracker._write_trial, []

    def is_cut_off(tracker: MlflowTracker, shown: TrackedRun, *rest: Any) -> None:
        if not cut_off:
            cut_off.append(shown.run_id)
            raise OSError("no answer")
        write(tracker, shown, *rest)

    monkeypatch.setattr(MlflowTracker, "_write_trial", is_cut_off)
    monkeypatch.setattr(_background, "RETRY_S", 0.05)
    run(config)
    assert_mlflow_agrees(config.folder)
    assert cut_off[0] in {one.info.run_id for one in shown(config.folder)[1]}


@pytest.mark.slow
def test_a_trial_takes_three_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    calls: list[str] = []
    for name in ("create_run", "get_run", "log_batch", "set_terminated", "set_tag", "set_experiment_tag"):
        call = getattr(MlflowClient, name)

        def counted(*given: Any, name: str = name, call: Any = call, **more: Any) -> Any:
            calls.append(name)
            return call(*given, **more)

        monkeypatch.setattr(MlflowClient, name, counted)
    config = tiny(tmp_path, "tracker=mlflow", "space.lr.count=7", *ONE_SCALE)
    run(config)
    trials = len(config.folder.read_trials())
    of_the_sweep = {"create_run": 1, "get_run": 1, "log_batch": 2, "set_terminated": 1, "set_experiment_tag": 2}
    of_trials = Counter(calls) - Counter(of_the_sweep)
    assert of_trials == {"create_run": trials, "log_batch": trials, "set_terminated": trials}


@pytest.mark.slow
def test_a_lost_store_is_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    config.folder.mlflow.rename(tmp_path / "lost.db")
    run(tiny(tmp_path, "tracker=mlflow", *ONE_SCALE))
    assert_mlflow_agrees(config.folder)


@pytest.mark.slow
def test_a_damaged_store_is_set_aside_and_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    whole = config.folder.mlflow.read_bytes()
    config.folder.mlflow.write_bytes(whole[:5000])
    done = process(*sweep_arguments(tmp_path, "tracker=mlflow", *ONE_SCALE))  # MLflow keeps files open in this process
    assert "not in the tracker" not in done.stdout
    assert config.folder.mlflow.with_name("mlflow.db.set-aside-1").read_bytes() == whole[:5000]
    with contextlib.closing(sqlite3.connect(config.folder.mlflow)) as store:
        trials = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE key = 'purpose' AND status = 'FINISHED'"
        assert store.execute(trials).fetchone() == (3,)


@pytest.mark.slow
def test_a_copied_run_has_a_store_of_its_own(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    copy = tmp_path / "copy"
    shutil.copytree(config.folder.path, copy)
    other = tiny(tmp_path, "tracker=mlflow", "name=copy", *ONE_SCALE)
    run(other)
    assert_mlflow_agrees(other.folder)
    assert_mlflow_agrees(config.folder)


@pytest.mark.slow
def test_a_failed_trial_that_is_reset_and_trained_is_shown_as_done(tmp_path: Path) -> None:
    """The trial's folder is removed by hand, as the README says."""
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    config.folder.create()
    config.folder.sweep.touch()
    plan = make_plan(config)
    failed = plan.trial(plan.scales[0], {"lr": plan.grids["lr"][0]}, 0)
    config.folder.write_trial(failed)
    write_json(config.folder.outcome_path(failed.id), Outcome(state=FAILED, error="bad luck").to_json())
    run(config)
    assert {one.info.status for one in shown(config.folder)[1]} >= {"FAILED"}
    shutil.rmtree(config.folder.trial(failed.id))
    run(config)
    assert_mlflow_agrees(config.folder)
    (study,) = studies(config.folder).values()
    states = [trial.state.name for trial in study.trials if trial.user_attrs["trial"] == failed.id]
    assert states == ["COMPLETE"]  # as the folders are now


@pytest.mark.slow
def test_a_store_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    config.folder.create()
    config.folder.sweep.touch()
    config.folder.mlflow.with_name("mlflow.db.unfinished").write_bytes(b"half a data base")
    run(config)
    assert_mlflow_agrees(config.folder)


def test_a_store_that_cannot_be_reached_does_not_stop_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_background, "FAILING_STORE_WAIT_S", 1.0)
    (tmp_path / "file").write_text("")
    config = tiny(tmp_path, "tracker=mlflow", f"tracker.uri=sqlite:///{tmp_path}/file/no.db", *ONE_SCALE)
    text = run(config)
    assert "note: not in the tracker yet: 3 trials; " in text
    assert "the same command tries again" in text
    assert len(list(config.folder.path.glob("trials/*/outcome.json"))) == 3


@pytest.mark.parametrize(("goal", "ascending"), [("minimize", True), ("maximize", False)])
def test_the_best_trial_by_the_goal_comes_first_on_the_page(made: RunFolder, goal: str, ascending: bool) -> None:
    tracker = MlflowConfig().open(made, TrackedSweep(name="run", settings={"goal": goal}))
    assert tracker is not None
    tracker.close()
    assert saved_view(made)["orderByAsc"] is ascending
