"""An MLflow server with PostgreSQL behind it: one run a trial and no doubled point, whatever is cut off when."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hptransfer.config.sweep import SweepConfig
from hptransfer.core.io import append_jsonl, read_jsonl, write_json
from hptransfer.core.records import DONE, Outcome, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.session import Session, session
from hptransfer.trackers import _background
from hptransfer.trackers.mlflow import MlflowTracker
from tests.support.helpers import ONE_SCALE, command, start, sweep_arguments, tiny
from tests.support.servers import Server, mlflow_server
from tests.support.waiting import wait_until

# MLflow's own libraries warn about each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SLOW = ("run.tokens=65536", "grid.tokens.values=[65536]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at short intervals, at a server that may be slow on a loaded machine."""
    monkeypatch.setattr(_background, "FOLLOW_S", 0.2)
    monkeypatch.setattr(_background, "RETRY_S", 0.1)
    for limit in ("FAILING_STORE_WAIT_S", "IDLE_STORE_WAIT_S"):
        monkeypatch.setattr(_background, limit, 200.0)


def on(server: Server, runs: Path, *overrides: str) -> SweepConfig:
    return tiny(runs, "tracker=mlflow", f"tracker.uri={server.uri}", *overrides)


def experiment(server: Server, folder: RunFolder) -> tuple[Any, Any, list[Any]]:
    """A client, the experiment of a run's folder, and its runs."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    place = str(folder.path.resolve())
    (found,) = (one for one in client.search_experiments() if one.tags.get("folder") == place)
    return client, found, list(client.search_runs([found.experiment_id], max_results=1000))


def assert_shown_once(server: Server, folder: RunFolder) -> None:
    """One finished run for every trial that is done, with its curve's own points and times, each once."""
    client, _, runs = experiment(server, folder)
    shown = Counter(run.data.tags["trial"] for run in runs)
    done = {trial.id for trial in folder.read_trials() if folder.read_outcome(trial.id)}
    assert shown == Counter({"sweep", *done})
    for run in runs:
        assert run.info.status == "FINISHED"
        if run.data.tags["trial"] == "sweep":
            continue
        curve = read_jsonl(folder.curve_path(run.data.tags["trial"]))
        points = [(row["step"], round(row["time"] * 1000), row["loss"]) for row in curve if row["loss"] is not None]
        history = client.get_metric_history(run.info.run_id, "train_loss")
        assert sorted((m.step, m.timestamp, m.value) for m in history) == points


def train(open_session: Session) -> None:
    open_session.train(TrialSet.sweep(open_session.plan))


def test_the_page_opens_on_the_answer(server: Server, tmp_path: Path) -> None:
    arguments = sweep_arguments(tmp_path, "launcher=inline", "tracker=mlflow", f"tracker.uri={server.uri}")
    wide = ("space.lr.low=0.001953125", "space.lr.high=0.125", "space.lr.count=5", "space.lr.extend=3")
    done = command(*arguments, *wide)
    assert done.returncode == 0, done.stderr
    assert "not in the tracker" not in done.stdout
    folder = RunFolder(tmp_path / "quickstart")
    assert_shown_once(server, folder)
    client, found, runs = experiment(server, folder)
    (parent,) = (run for run in runs if run.data.tags["trial"] == "sweep")
    assert "recommended lr for width=64" in found.tags["mlflow.note.content"]
    attached = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert attached >= {"report.html", "loss_curves.svg", "prediction.json", "records.csv"}
    place = client.download_artifacts(parent.info.run_id, "report.html")
    assert Path(place).read_bytes() == folder.report.read_bytes()
    wide_ones = client.search_runs([found.experiment_id], "metrics.`settings/width` > 20 AND tags.purpose = 'sweep'")
    assert {run.data.params["width"] for run in wide_ones} == {"32"}
    assert all(run.info.run_name.startswith("width=32 lr=") for run in wide_ones)
    assert {run.data.tags["parameterization"] for run in wide_ones} == {"mup"}
    named = client.search_runs([found.experiment_id], "tags.width = '16' AND tags.model = 'transformer'")
    assert len(named) == len(wide_ones)


def test_a_server_that_is_away_for_a_while_is_made_up_for(server: Server, tmp_path: Path) -> None:
    config = on(server, tmp_path)
    with session(make_plan(config), Console(quiet=True)) as open_session:
        wait_for_experiment(server, config)
        server.stop()
        try:
            train(open_session)
            assert open_session.tracker.missing is not None
        finally:
            server.start()
    assert open_session.tracker.missing is None
    assert_shown_once(server, config.folder)


def experiments(server: Server, config: SweepConfig) -> list[Any]:
    from mlflow import MlflowClient

    place = str(config.folder.path.resolve())
    return [one for one in MlflowClient(server.uri).search_experiments() if one.tags.get("folder") == place]


def wait_for_experiment(server: Server, config: SweepConfig) -> None:
    wait_until(lambda: experiments(server, config), "the experiment", pause_s=0.1)


def wait_for_steps(server: Server, config: SweepConfig, last: int) -> None:
    shown = {"RUNNING": list(range(last + 1))}
    wait_until(lambda: steps(server, config.folder) == shown, f"step {last}", pause_s=0.1)


def test_what_a_server_missed_to_the_end_is_said_and_written_by_the_next_command(
    server: Server, tmp_path: Path
) -> None:
    config = on(server, tmp_path, *ONE_SCALE)
    server.stop()
    try:
        with (tmp_path / "out").open("w") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(_background, "FAILING_STORE_WAIT_S", 2.0)
            console = Console(record=True, file=file)
            with session(make_plan(config), console) as open_session:
                train(open_session)
            text = console.export_text()
    finally:
        server.start()
    assert "note: not in the tracker yet: 3 trials; MlflowException" in text
    assert "Connection refused" in text
    with session(make_plan(config), Console(quiet=True)) as again:
        train(again)
    assert again.tracker.missing is None
    assert_shown_once(server, config.folder)


def test_a_driver_killed_while_it_writes_leaves_one_run_a_trial(server: Server, tmp_path: Path) -> None:
    config = on(server, tmp_path)
    arguments = sweep_arguments(tmp_path, "launcher=inline", "tracker=mlflow", f"tracker.uri={server.uri}")
    with start(*arguments) as driver:
        wait_for_experiment(server, config)
        wait_until(lambda: len(experiment(server, config.folder)[2]) > 1, "a run", process=driver, pause_s=0.1)
        driver.kill()
    for _ in range(2):
        with session(make_plan(config), Console(quiet=True)) as open_session:
            train(open_session)
    assert_shown_once(server, config.folder)


def test_postgresql_drops_exact_repeats(server: Server) -> None:
    """What writing a curve twice rests on; the same step at another time is another point."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(server.uri)
    run = client.create_run(client.create_experiment("repeats")).info.run_id
    points = [Metric("train_loss", 1 / 3 + step, 1_700_000_000_000 + step, step) for step in range(1500)]
    for _ in range(2):
        client.log_batch(run, metrics=points)
    client.log_batch(run, metrics=[*points[:10], Metric("train_loss", 1 / 3, 1_700_000_000_001, 0)])
    assert len(client.get_metric_history(run, "train_loss")) == 1501


def curve(begun: float, steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "tokens": step, "loss": 1.0 / (step + 1), "time": begun + step} for step in range(steps)]


def test_a_restarted_curve_replaces_the_one_that_was_shown(server: Server, tmp_path: Path) -> None:
    """As after a preemption between checkpoints: seen by the driver that wrote the old points, and by the next."""
    config = on(server, tmp_path)
    plan = make_plan(config)
    trial: Trial = plan.trial(plan.scales[0], {"lr": plan.grids["lr"][0]}, 0)
    config.folder.create()
    config.folder.write_trial(trial)

    def tracker() -> MlflowTracker:
        return MlflowTracker(server.uri, config.folder, "anew", {})

    first = tracker()
    first.follow(trial, curve(1000.0, 3))
    first.follow(trial, curve(1000.0, 5))
    assert steps(server, config.folder) == {"RUNNING": [0, 1, 2, 3, 4]}
    first.follow(trial, curve(2000.0, 2))
    assert steps(server, config.folder) == {"RUNNING": [0, 1]}
    last = curve(3000.0, 4)
    append_jsonl(config.folder.curve_path(trial.id), last)
    outcome = Outcome(state=DONE, loss=0.25, steps=3)
    write_json(config.folder.outcome_path(trial.id), outcome.to_json())
    for _ in range(2):
        one = tracker()
        one.log(trial, outcome, last)
        one.close()
    assert_shown_once(server, config.folder)


def steps(server: Server, folder: RunFolder) -> dict[str, list[int]]:
    """Steps that trials' runs show, by the run's status."""
    client, _, runs = experiment(server, folder)
    return {
        run.info.status: sorted(m.step for m in client.get_metric_history(run.info.run_id, "train_loss"))
        for run in runs
        if run.data.tags["trial"] != "sweep"
    }


def test_curves_are_shown_while_their_trials_train(server: Server, tmp_path: Path) -> None:
    config = on(server, tmp_path)
    plan = make_plan(config)
    trial = plan.trial(plan.scales[0], {"lr": plan.grids["lr"][0]}, 0)
    config.folder.create()
    config.folder.sweep.touch()
    with session(plan, Console(quiet=True)) as open_session:
        config.folder.write_trial(trial)
        open_session.tracker.started(trial.id)
        append_jsonl(config.folder.curve_path(trial.id), curve(1000.0, 3))
        wait_for_experiment(server, config)
        wait_for_steps(server, config, last=2)
        append_jsonl(config.folder.curve_path(trial.id), curve(1000.0, 5)[3:])
        wait_for_steps(server, config, last=4)


def test_runs_of_one_name_have_experiments_of_their_own(server: Server, tmp_path: Path) -> None:
    names = set()
    for runs in ("mine", "yours"):
        (tmp_path / runs).mkdir()
        config = on(server, tmp_path / runs, *ONE_SCALE)
        with session(make_plan(config), Console(quiet=True)) as open_session:
            train(open_session)
        assert_shown_once(server, config.folder)
        names.add(experiment(server, config.folder)[1].name)
    assert len(names) == 2
