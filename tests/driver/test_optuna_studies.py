"""Optuna's journal is written anew at every start, and nothing in it is trusted."""

import json
import os
import pickle
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution

from hptransfer.core.io import read_json, write_json
from hptransfer.core.records import DONE, SWEEP, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.optuna_studies import Studies
from hptransfer.samplers import SamplerConfig
from hptransfer.samplers.cmaes import CmaesConfig, decode_optimizer
from hptransfer.samplers.random import RandomConfig
from tests.support.views import studies

SCALE = Scale({"width": 16})
RANGES = {"lr": (0.001, 1.0), "beta": (0.01, 0.5)}
LOG = dict.fromkeys(RANGES, True)
NAMES = ("lr", "beta")
STARTUP = 5
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def loss(tuned: dict[str, float]) -> float:
    return 3.0 + (tuned["lr"] - 0.03) ** 2 + (tuned["beta"] - 0.1) ** 2


class Sweep:
    """A sampler's studies, with the trials that were made of its proposals."""

    def __init__(self, folder: RunFolder, sampler: SamplerConfig) -> None:
        self.folder, self.sampler = folder, sampler
        folder.create()
        self.rows: list[tuple[Trial, Outcome | None, None]] = []
        self.start()

    def start(self) -> None:
        self.studies = Studies(self.folder, self.sampler, RANGES, LOG)
        self.studies.sync(sorted(self.rows, key=lambda row: row[0].id))

    def propose(self, count: int) -> list[dict[str, float]]:
        """Train proposals, one after the other."""
        proposed = []
        for _ in range(count):
            number, tuned = self.studies.ask(SCALE, SWEEP)
            values = {"tuned": tuned, "seed": 0, "run": {}, "flops": 1.0, "params": 1}
            trial = Trial(id=f"{7919 * number % 1000:012x}", scale=SCALE, **values)  # type: ignore[arg-type]
            self.studies.bind(trial, number)
            outcome = Outcome(state=DONE, loss=loss(tuned))
            self.studies.tell(trial, outcome)
            self.rows.append((trial, outcome, None))
            proposed.append(tuned)
        return proposed


def optunas_own(seeds: list[int], counts: list[int]) -> list[dict[str, float]]:
    """Proposals of Optuna's sampler over a study in memory, which keeps its pickles."""
    study = optuna.create_study()
    distributions = {name: FloatDistribution(*RANGES[name], log=True) for name in NAMES}
    proposed = []
    for seed, count in zip(seeds, counts, strict=True):
        study.sampler = optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False
        )
        for _ in range(count):
            handle = study.ask(distributions)
            proposed.append(dict(handle.params))
            study.tell(handle, loss(handle.params))
    return proposed


@pytest.mark.parametrize("lost", [True, False])
def test_cmaes_proposes_after_a_restart_what_optunas_own_sampler_does(tmp_path: Path, lost: bool) -> None:
    sweep = Sweep(RunFolder(tmp_path / "run"), CmaesConfig(trials=40))
    first = sweep.propose(25)
    if lost:
        sweep.folder.journal.unlink()
    sweep.start()
    proposed = first + sweep.propose(15)
    seed = studies(sweep.folder)[SCALE.key].user_attrs["seed"]
    assert proposed == optunas_own([seed, seed + 25], [25, 15])
    assert proposed != optunas_own([seed, seed + 24], [25, 15])


def test_a_discarded_proposal_keeps_its_number_after_a_restart(tmp_path: Path) -> None:
    sweep = Sweep(RunFolder(tmp_path / "run"), RandomConfig(trials=9))
    sweep.propose(2)
    number, _ = sweep.studies.ask(SCALE, SWEEP)
    sweep.studies.discard(SCALE, SWEEP, number)
    sweep.propose(1)
    sweep.start()
    shown = studies(sweep.folder)[SCALE.key].trials
    assert [trial.user_attrs.get("trial") for trial in shown] == [
        *(row[0].id for row in sweep.rows[:2]),
        None,
        sweep.rows[2][0].id,
    ]


class Attack:
    """A pickle that makes a file as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_pickle_of_a_run_folder_is_read(tmp_path: Path) -> None:
    sweep = Sweep(RunFolder(tmp_path / "run"), CmaesConfig(trials=40))
    sweep.propose(STARTUP)
    trial, ran = sweep.rows[-1][0], tmp_path / "ran"
    attack = pickle.dumps(Attack(ran)).hex()
    with sweep.folder.journal.open("a") as journal:  # as Optuna writes it (operation 9: a system attribute)
        attribute = {
            "op_code": 9,
            "worker_id": "x",
            "trial_id": STARTUP - 1,
            "system_attr": {"cma:optimizer:0": attack},
        }
        journal.write(json.dumps(attribute) + "\n")
    path = sweep.folder.proposal_path(trial.id)
    values = read_json(path)
    write_json(path, values | {"state": {"cma:optimizer:0": attack, "cma:optimizer": attack}})
    sweep.start()
    sweep.propose(3)
    assert not ran.exists()
    pickle.loads(bytes.fromhex(attack))  # the control
    assert ran.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"_n_dim": 10**9},
        {"_popsize": 10**9},
        {"_mean": [0.0]},
        {"_mean": ["a", "b"]},
        {"_C": [[1.0]], "_c_1d": [1.0]},
        {"_sigma": "large"},
        {"_sigma": {"a": 1}},
        {"_pc": None, "_n_dim": None},
    ],
)
def test_another_state_than_a_sampler_writes_is_ignored(tmp_path: Path, change: dict[str, object]) -> None:
    sweep = Sweep(RunFolder(tmp_path / "run"), CmaesConfig(trials=40))
    sweep.propose(STARTUP + 8)
    stored = [read_json(sweep.folder.proposal_path(row[0].id))["state"].get("cma:optimizer") for row in sweep.rows]
    state = next(filter(None, stored))
    assert decode_optimizer(state) is not None
    assert decode_optimizer(state | change) is None
    assert decode_optimizer("80049500") is None
