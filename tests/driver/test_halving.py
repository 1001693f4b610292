"""Successive halving: fewer steps for the same best, decided by Optuna, also after kills; off by default."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from hptransfer.analysis.pipeline import analyze_run
from hptransfer.analysis.tables.columns import run_columns
from hptransfer.analysis.tables.run_records import run_records
from hptransfer.analysis.tables.table_checks import check_table, unused_rows
from hptransfer.config.sweep import HalvingConfig, SweepConfig
from hptransfer.core.errors import FitError, Interrupted
from hptransfer.core.io import append_jsonl, read_json, read_jsonl, write_json
from hptransfer.core.records import DIVERGED, DONE, KILLED, PRUNED, Job, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver import driver
from hptransfer.driver.halving import SuccessiveHalving
from hptransfer.driver.trial_index import ScaleState
from hptransfer.launchers import JobEnd
from hptransfer.planning.search_space import Bounds, next_point
from tests.support.helpers import outcomes, tiny
from tests.support.jobs import JOB, After, results, run_job, write_job
from tests.support.scripted import Scripted, drive
from tests.support.views import studies

STEPS = 12
BEST = {16: 2.0**-6, 32: 2.0**-5, 64: 2.0**-5}
LOW = 2.0**-8
RATES = [2.0**power for power in range(-9, -2)]
Loss = Callable[[Trial, float], float]
"""Of a trial, at a share of its training."""


def bowl(trial: Trial, share: float) -> float:
    """Falls as training goes on; the order of the rates is the same from first to last."""
    return 2.0 + 0.01 * trial.seed + (1.2 - share) * around(BEST[int(trial.scale.axes["width"])], trial)


def crossing(trial: Trial, share: float) -> float:
    """The higher the rate, the lower the loss at first; at the end a low one is best."""
    early = max(0.0, 0.6 - share) * math.log2(trial.tuned["lr"] / RATES[0])
    return 2.0 + (1.2 - share) * around(LOW, trial) - early


def around(best: float, trial: Trial) -> float:
    return 1 + 0.1 * math.log2(trial.tuned["lr"] / best) ** 2


class Training:
    """A fate: every look at a job trains each of its trials for a step, and minds what the driver leaves there."""

    def __init__(self, loss: Loss) -> None:
        self._loss, self._clock = loss, itertools.count(1.0)
        self.steps = 0

    def __call__(self, folder: RunFolder, job: Job) -> JobEnd | None:
        open_trials = [trial for trial in job.trials if not folder.outcome_path(trial).exists()]
        for trial_id in open_trials:
            self._step(folder, folder.read_trial(trial_id))
        return JobEnd(job.id) if not open_trials else None

    def _step(self, folder: RunFolder, trial: Trial) -> None:
        self.steps += 1
        step = len(read_jsonl(folder.curve_path(trial.id))) + 1
        loss = self._loss(trial, step / STEPS)
        point = {"step": step, "tokens": trial.run["tokens"] * step // STEPS, "loss": loss, "time": next(self._clock)}
        append_jsonl(folder.curve_path(trial.id), [point])
        state = DONE if step == STEPS else PRUNED if folder.pruned_path(trial.id).exists() else None
        if state:
            ended = Outcome(state=state, loss=loss if state == DONE else None, initial_loss=4.0, steps=step, seconds=1)
            write_json(folder.outcome_path(trial.id), ended.to_json())


@pytest.fixture(autouse=True)
def report_at_every_tick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "REPORT_S", 0.0)
        patch.setattr(driver, "REPORT_SHARE", 0.0)
        yield


def seven_rates(runs: Path, *more: str) -> SweepConfig:
    return tiny(runs, f"space.lr.values={RATES}", "space.lr.extend=6", "launcher=local", *more)


def best(folder: RunFolder) -> dict[int, float]:
    """The rate of the lowest loss at each width."""
    found: dict[int, tuple[float, float]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None
        if outcome.loss is not None:
            width = int(trial.scale.axes["width"])
            found[width] = min(found.get(width, (math.inf, 0.0)), (outcome.loss, trial.tuned["lr"]))
    return {width: rate for width, (_, rate) in found.items()}


HALVING = ("halving.share=0.25", "halving.factor=2", "halving.sides=1")


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_best_of_every_scale_is_found_in_fewer_steps(tmp_path: Path, seeds: int) -> None:
    with_it, without = Training(bowl), Training(bowl)
    halved = seven_rates(tmp_path, *HALVING, f"seeds={seeds}", "name=halved")
    whole = seven_rates(tmp_path, f"seeds={seeds}", "name=whole")
    drive(halved, Scripted(with_it))
    drive(whole, Scripted(without))
    assert best(halved.folder) == best(whole.folder) == {width: BEST[width] for width in (16, 32)}
    assert set(outcomes(halved.folder).values()) == {DONE, PRUNED}
    assert set(outcomes(whole.folder).values()) == {DONE}
    assert len(outcomes(halved.folder)) == len(outcomes(whole.folder)) == 14 * seeds  # none beyond an edge
    assert without.steps == 14 * seeds * STEPS
    assert with_it.steps < 0.75 * without.steps


def test_what_leads_early_and_loses_late_misleads_it_which_is_why_it_is_off(tmp_path: Path) -> None:
    assert HalvingConfig().share is None
    halved = seven_rates(tmp_path, *HALVING, "name=halved", "space.lr.extend=0")
    whole = seven_rates(tmp_path, "name=whole", "space.lr.extend=0")
    for config in (halved, whole):
        drive(config, Scripted(Training(crossing)))
    assert best(whole.folder) == {16: LOW, 32: LOW}
    assert all(rate > LOW for rate in best(halved.folder).values())


def killed_now(timeout_s: float) -> list[JobEnd]:
    raise KeyboardInterrupt


def test_a_driver_that_is_killed_and_one_that_is_not_stop_the_same_trials(tmp_path: Path) -> None:
    undisturbed = seven_rates(tmp_path, *HALVING, "name=undisturbed")
    drive(undisturbed, Scripted(Training(bowl)))
    killed = seven_rates(tmp_path, *HALVING, "name=killed")
    training = Training(bowl)
    launcher = Scripted(training)
    wait = launcher.wait
    for ticks in (2, 1, 2, 0, 3):
        waits = itertools.chain([wait] * ticks, [killed_now])
        launcher.wait = lambda timeout_s, waits=waits: next(waits)(timeout_s)  # type: ignore[misc]
        with pytest.raises(KeyboardInterrupt):
            drive(killed, launcher)
    launcher.wait = wait  # type: ignore[method-assign]
    drive(killed, launcher)
    assert outcomes(killed.folder) == outcomes(undisturbed.folder)
    assert {trial.state for trial in studies(killed.folder)["width=16,depth=1,tokens=4096"].trials} == {
        optuna.trial.TrialState.COMPLETE,
        optuna.trial.TrialState.PRUNED,
    }


def test_a_worker_that_is_killed_stops_them_all_the_same(tmp_path: Path) -> None:
    config = seven_rates(tmp_path, *HALVING, "retry.killed.delay_s=0")
    training = Training(bowl)
    dead: set[str] = set()

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        if job.id not in dead and any(folder.pruned_path(trial).exists() for trial in job.trials):
            dead.add(job.id)
            return JobEnd(job.id, KILLED)
        return training(folder, job)

    drive(config, Scripted(fate))
    assert dead
    assert best(config.folder) == {width: BEST[width] for width in (16, 32)}
    assert set(outcomes(config.folder).values()) == {DONE, PRUNED}


def test_optuna_has_them_pruned_where_their_curves_end(tmp_path: Path) -> None:
    config = seven_rates(tmp_path, *HALVING)
    drive(config, Scripted(Training(bowl)))
    config.folder.journal.unlink()  # it is a view, which the next driver makes again
    drive(config, Scripted(lambda folder, job: pytest.fail("trained again")))
    shown = {t.user_attrs["trial"]: t for study in studies(config.folder).values() for t in study.trials}
    for trial_id, state in outcomes(config.folder).items():
        pruned = shown[trial_id].state == optuna.trial.TrialState.PRUNED
        assert pruned == (state == PRUNED)
        if pruned:
            last = read_jsonl(config.folder.curve_path(trial_id))[-1]
            assert shown[trial_id].intermediate_values == {last["step"]: last["loss"]}


def test_what_it_stopped_is_trained_to_its_end_once_it_is_off(tmp_path: Path) -> None:
    config = seven_rates(tmp_path, *HALVING)
    drive(config, Scripted(Training(bowl)))
    pruned = [trial_id for trial_id, state in outcomes(config.folder).items() if state == PRUNED]
    assert pruned
    drive(config, Scripted(lambda folder, job: pytest.fail("trained again")))
    assert set(outcomes(config.folder).values()) == {DONE, PRUNED}
    whole = seven_rates(tmp_path)
    drive(whole, Scripted(Training(bowl)))
    assert set(outcomes(whole.folder).values()) == {DONE}
    assert not any(whole.folder.pruned_path(trial_id).exists() for trial_id in pruned)
    drive(whole, Scripted(lambda folder, job: pytest.fail("trained again")))
    known = [t for study in studies(whole.folder).values() for t in study.trials]
    assert len(known) == 14
    last = {t.user_attrs["trial"]: t.state for t in known}
    assert set(last.values()) == {optuna.trial.TrialState.COMPLETE}


def test_pruned_trials_stay_out_of_the_fit_and_are_counted(tmp_path: Path) -> None:
    config = seven_rates(tmp_path, *HALVING)
    report = drive(config, Scripted(Training(bowl)))
    target = read_json(config.folder.target)
    records = run_records(config.folder, target)
    pruned = report.progress.count(PRUNED)
    assert 0 < pruned < 14
    assert unused_rows(records) == {PRUNED: pruned}
    assert set(check_table(records, run_columns(target), "records.csv")["state"]) == {DONE}


@pytest.mark.slow
def test_the_fit_finds_the_five_points_around_the_best_that_it_needs(tmp_path: Path) -> None:
    grid = ("grid.width.values=[16,32,64]", "target.width=128", "seeds=2")
    predicted = {}
    for name, more in {"whole": (), "halved": HALVING[:2], "bare": (*HALVING[:2], "halving.sides=0")}.items():
        config = seven_rates(tmp_path, f"name={name}", *grid, *more)
        drive(config, Scripted(Training(bowl)))
        if name == "bare":
            with pytest.raises(FitError, match="lr was tried at 2 values, at least 3 place an optimum"):
                analyze_run(config.folder)
        else:
            predicted[name] = analyze_run(config.folder).predict({"width": 128, "depth": 1, "tokens": 4096})["lr"]
    assert set(outcomes(RunFolder(tmp_path / "halved")).values()) == {DONE, PRUNED}
    assert abs(math.log2(predicted["halved"] / predicted["whole"])) < 0.1


def write_curve(folder: RunFolder, trial: Trial, losses: list[float], *, after: int = 0) -> None:
    """Adds points of ten tokens each; step n of any trial is written in second n."""
    folder.trial(trial.id).mkdir(parents=True, exist_ok=True)
    steps = enumerate(losses, after + 1)
    points = [{"step": step, "tokens": 10 * step, "loss": loss, "time": float(step)} for step, loss in steps]
    append_jsonl(folder.curve_path(trial.id), points)


def trial_of(name: str, seed: int = 0, lr: float = 1.0) -> Trial:
    return Trial(id=name, scale=Scale({"width": 16}), tuned={"lr": lr}, seed=seed, run={}, flops=1, params=1)


def halving_at(folder: RunFolder) -> SuccessiveHalving:
    return SuccessiveHalving(
        folder, HalvingConfig(share=0.5, factor=2), {Scale({"width": 16}): 100}, lambda one, other: 3
    )


def test_no_trial_is_compared_before_the_first_rung_nor_with_another_seed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first, worse, other = trial_of("first"), trial_of("worse"), trial_of("other", seed=1)
    write_curve(folder, first, [4.0, 3.0, 2.0, 1.5, 1.0])
    write_curve(folder, worse, [9.0] * 4)
    write_curve(folder, other, [9.0] * 5)
    halving = halving_at(folder)
    assert halving.pruned([first, worse, other]) == {}
    write_curve(folder, worse, [9.0] * 2, after=4)
    found = halving.pruned([first, worse, other])
    assert {name: point["tokens"] for name, point in found.items()} == {"worse": 50}
    write_curve(folder, worse, [9.0], after=6)  # its worker has not looked yet
    assert halving.pruned([first, worse, other]) == {}  # each trial is returned once
    assert set(halving_at(folder).pruned([other, first, worse])) == {"worse"}  # and after a restart


def test_who_is_near_the_leader_of_its_own_seed_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    other, leader = trial_of("other", lr=1.0), trial_of("leader", seed=1, lr=64.0)
    near, edge = trial_of("near", seed=1, lr=32.0), trial_of("edge", seed=1, lr=16.0)
    beyond, far = trial_of("beyond", seed=1, lr=8.0), trial_of("far", seed=1, lr=1.0)
    for trial, loss in ((other, 1.0), (leader, 5.0), (near, 6.0), (edge, 7.0), (beyond, 8.0), (far, 9.0)):
        write_curve(folder, trial, [loss] * 6)

    def octaves(one: Trial, another: Trial) -> int:
        return round(abs(math.log2(one.tuned["lr"] / another.tuned["lr"])))

    halving = SuccessiveHalving(folder, HalvingConfig(share=0.5, factor=2), {Scale({"width": 16}): 100}, octaves)
    assert set(halving.pruned([other, leader, near, edge, beyond, far])) == {"beyond", "far"}


def test_a_trial_at_its_end_is_not_stopped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_curve(folder, trial_of("first"), [1.0] * 10)
    write_curve(folder, trial_of("last"), [9.0], after=9)
    assert halving_at(folder).pruned([trial_of("first"), trial_of("last")]) == {}


def test_a_pruned_point_is_neither_best_nor_untried_nor_a_cliff() -> None:
    at = ScaleState(losses={(1.0,): [2.0], (2.0,): [1.0], (8.0,): [3.0]}, pruned={(4.0,), (0.5,)})
    means = at.mean_losses()
    assert min(means, key=lambda point: means[point]) == (2.0,)
    assert set(means) == {(0.5,), (1.0,), (2.0,), (4.0,), (8.0,)}
    assert means[0.5,] == means[4.0,] > 3.0
    ranges = [Bounds("lr", 0.5, 8.0, 6, math.inf)]
    assert next_point(means, ranges) is None
    assert next_point({**means, (4.0,): math.inf}, ranges) is None  # nearer than a value between would be tried
    at_the_edge = ScaleState(losses={(4.0,): [1.0]}, pruned={(1.0,), (2.0,)})
    assert next_point(at_the_edge.mean_losses(), ranges) == (8.0,)
    assert ScaleState(losses={(4.0,): [math.inf]}, pruned={(1.0,)}).mean_losses() == {
        (4.0,): math.inf,
        (1.0,): math.inf,
    }


def test_a_worker_stops_one_trial_of_a_stack_and_the_others_end_as_ever(tmp_path: Path) -> None:
    alone, stopped = write_job(tmp_path / "alone"), write_job(tmp_path / "stopped")
    good = [trial.id for trial in alone.read_trials() if trial.tuned["lr"] < 1]
    write_json(stopped.pruned_path(good[0]), {"tokens": 1, "loss": 9.0})
    for folder in (alone, stopped):
        assert run_job(folder, JOB) is None
    assert outcomes(alone)[good[0]] == outcomes(alone)[good[1]] == outcomes(stopped)[good[1]] == DONE
    assert outcomes(stopped)[good[0]] == PRUNED
    assert sorted(outcomes(stopped).values()) == [DIVERGED, DONE, PRUNED]
    outcome = stopped.read_outcome(good[0])
    assert outcome is not None
    assert (outcome.steps, outcome.loss) == (1, None)
    other, before = stopped.read_outcome(good[1]), alone.read_outcome(good[1])
    assert other is not None
    assert before is not None
    assert other.loss == pytest.approx(before.loss, rel=1e-4)


def test_a_stack_that_one_has_left_goes_on_after_a_preemption_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut = write_job(tmp_path / "whole"), write_job(tmp_path / "cut")
    for folder in (whole, cut):
        good = next(trial.id for trial in folder.read_trials() if trial.tuned["lr"] < 1)
        write_json(folder.pruned_path(good), {"tokens": 1, "loss": 9.0})
    assert run_job(whole, JOB) is None
    with pytest.raises(Interrupted):
        run_job(cut, JOB, stop=After(9))
    assert sorted(outcomes(cut).values()) == [DIVERGED, "open", PRUNED]
    assert run_job(cut, JOB) is None
    assert results(cut) == results(whole)
