"""Optuna's view of a sweep: one study a scale in one journal file, asked and told by the driver.

A trial of ours is a trial of Optuna's, tied by the user attribute "trial". The journal can be lost:
`sync` makes it again from the trial folders.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hptransfer.core.io import set_aside
from hptransfer.core.records import DONE, FAILED, PRUNED, VERIFY, Outcome, Scale, Trial
from hptransfer.samplers import SamplerConfig

LastPoint = tuple[int, float] | None
"""A step and the training loss there, in nats."""


class Studies:
    """All studies of one run. One writer: the caller holds the run's driver lock.

    Args:
        ranges: lowest and highest value of each tuned hyperparameter, for samplers that choose.
        log: tuned hyperparameters that are searched on a log axis.
    """

    def __init__(
        self, journal: Path, sampler: SamplerConfig, ranges: Mapping[str, tuple[float, float]], log: Mapping[str, bool]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._sampler = sampler
        self._ranges = dict(ranges)
        self._log = log
        self._studies: dict[str, optuna.Study] = {}
        self._ids: dict[str, int] = {}
        self._storage = self._open(journal)

    @staticmethod
    def _open(journal: Path) -> JournalStorage:
        # Nobody else writes, so whatever lock lies here was left by a driver that was killed.
        for left_over in journal.parent.glob(f"{journal.name}.lock*"):
            left_over.unlink(missing_ok=True)
        if journal.exists() and not _cut_torn_line(journal):
            set_aside(journal)
        return JournalStorage(SingleWriterBackend(journal))

    def sync(self, trials: Iterable[tuple[Trial, Outcome | None, LastPoint]]) -> None:
        """Brings the studies up to the trial folders, and clears what was asked for but never made."""
        known = set()
        for trial, outcome, reached in trials:
            known.add(trial.id)
            self._study(trial.scale, trial.purpose)
            self._widen(trial)
            if outcome is not None:
                self.tell(trial, outcome, reached)
        for study in self._studies.values():
            for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if frozen.state == TrialState.WAITING or frozen.user_attrs.get("trial") not in known:
                    self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def start(self, trial: Trial) -> None:
        """Makes a given trial one that runs; a second time does nothing.

        A trial enters its study no sooner: a queue of ten thousand would take seconds to write, and Optuna
        looks through all of it whenever it hands one out. One that failed or was pruned and was taken back runs beside
        the one that did.
        """
        study = self._study(trial.scale, trial.purpose)
        if trial.id in self._ids and self._frozen(trial).state not in (TrialState.FAIL, TrialState.PRUNED):
            return
        self._widen(trial)
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(trial.tuned),
            distributions=self._distributions(),
            user_attrs={"trial": trial.id, "seed": trial.seed},
        )
        self._ids[trial.id] = self._storage.create_new_trial(study._study_id, running)

    def _widen(self, trial: Trial) -> None:
        """Lets the range of what is tuned hold this trial's values."""
        for key, value in trial.tuned.items():
            low, high = self._ranges[key]
            self._ranges[key] = min(low, value), max(high, value)

    def ask(self, scale: Scale, purpose: str) -> tuple[int, dict[str, float]]:
        """A value that the sampler chooses: Optuna's trial number and the tuned hyperparameters."""
        handle = self._study(scale, purpose).ask(self._distributions())
        return handle.number, dict(handle.params)

    def bind(self, trial: Trial, number: int) -> None:
        """Ties an asked trial to the one that was made of it."""
        study = self._study(trial.scale, trial.purpose)
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        self._storage.set_trial_user_attr(storage_id, "trial", trial.id)
        self._storage.set_trial_user_attr(storage_id, "seed", trial.seed)
        self._ids[trial.id] = storage_id

    def discard(self, scale: Scale, purpose: str, number: int) -> None:
        """Closes an asked trial that repeats a known one."""
        self._study(scale, purpose).tell(number, state=TrialState.FAIL)

    def tell(self, trial: Trial, outcome: Outcome, reached: LastPoint = None) -> None:
        """Closes a trial; a second time does nothing.

        A diverged trial is told at the loss that it started from: Optuna's samplers need a finite
        value to keep away from, and training that ends above where it began is worth no less.

        Args:
            reached: the last point of a pruned trial's curve.
        """
        value = outcome.loss if outcome.state == DONE else outcome.initial_loss
        failed = outcome.state == FAILED or value is None
        self._study(trial.scale, trial.purpose)
        taken_back = failed or outcome.state == PRUNED  # what may be, so that `start` begins it anew
        if taken_back and trial.id in self._ids and self._frozen(trial).state.is_finished():
            return
        self.start(trial)
        frozen = self._frozen(trial)
        if frozen.state.is_finished():
            return
        self._storage.set_trial_user_attr(frozen._trial_id, "state", outcome.state)
        study = self._study(trial.scale, trial.purpose)
        if outcome.state == PRUNED:
            if reached is not None:
                self._storage.set_trial_intermediate_value(frozen._trial_id, *reached)
            study.tell(frozen.number, state=TrialState.PRUNED)
        elif failed:
            study.tell(frozen.number, state=TrialState.FAIL)
        else:
            study.tell(frozen.number, value)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._storage.get_trial(self._ids[trial.id])

    def _study(self, scale: Scale, purpose: str) -> optuna.Study:
        name = f"verify {scale.name}" if purpose == VERIFY else scale.name
        if name not in self._studies:
            study = optuna.create_study(
                storage=self._storage, study_name=name, direction="minimize", load_if_exists=True
            )
            # A resumed study goes on with other random numbers than it began with.
            study.sampler = self._sampler.build(seed=zlib.crc32(name.encode()) + len(study.get_trials(deepcopy=False)))
            self._studies[name] = study
            for frozen in study.get_trials(deepcopy=False):
                if "trial" in frozen.user_attrs:
                    self._ids[frozen.user_attrs["trial"]] = frozen._trial_id
        return self._studies[name]

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {key: FloatDistribution(low, high, log=self._log[key]) for key, (low, high) in self._ranges.items()}


class SingleWriterBackend(BaseJournalBackend):
    """Optuna's journal without its lock and its wait for the disk, which ten thousand trials would take minutes for.

    Nobody else writes, and what a crash of the machine tears off is told again from the trial folders.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self._reader = JournalFileBackend(str(journal))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._reader.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())


def _cut_torn_line(journal: Path) -> bool:
    """Cuts off a half-written last line; Optuna would choke on it at the next write but one.

    Returns:
        Whether the journal can be read; if not, it has to be made again.
    """
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return all("op_code" in json.loads(line) for line in whole.splitlines())
    except ValueError:
        return False
