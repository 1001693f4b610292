"""Optuna's view of a sweep: one study for each scale.

All studies are in one journal file.

A study is named by the scale's exact key. Each trial has a counterpart in Optuna, tied by the user attribute "trial".
The journal may be lost: `sync` makes it again from the trial folders.
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
"""A step and the training loss at it, in nats."""


class Studies:
    """All studies of one run.

    There is one writer: the caller holds the run's driver lock.

    Args:
        ranges: lowest and highest value of each tuned hyperparameter, for samplers that choose.
        log: True for each tuned hyperparameter that is searched on a log axis.
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
        # The driver is the only writer, so any lock here is left over from a driver that was killed.
        for left_over in journal.parent.glob(f"{journal.name}.lock*"):
            left_over.unlink(missing_ok=True)
        if journal.exists() and not _cut_torn_line(journal):
            set_aside(journal)
        return JournalStorage(SingleWriterBackend(journal))

    def sync(self, trials: Iterable[tuple[Trial, Outcome | None, LastPoint]]) -> None:
        """Update the studies from the trial folders.

        Proposals that never became trials fail.
        """
        known = set()
        for trial, outcome, last_point in trials:
            known.add(trial.id)
            self._study(trial.scale, trial.purpose)
            self._widen(trial)
            if outcome is not None:
                self.tell(trial, outcome, last_point)
        for study in self._studies.values():
            for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if frozen.state == TrialState.WAITING or frozen.user_attrs.get("trial") not in known:
                    self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)

    def start(self, trial: Trial) -> None:
        """Mark a trial as running; a second call does nothing.

        A trial enters its study no sooner: a queue of ten thousand would take seconds to write, and Optuna searches all
        of it for every proposal. A failed or pruned trial that was reset gets a second counterpart beside the first.
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
        """Widen the tuned ranges to this trial's values."""
        for key, value in trial.tuned.items():
            low, high = self._ranges[key]
            self._ranges[key] = min(low, value), max(high, value)

    def ask(self, scale: Scale, purpose: str) -> tuple[int, dict[str, float]]:
        """Propose a point: Optuna's trial number and the tuned values."""
        handle = self._study(scale, purpose).ask(self._distributions())
        return handle.number, dict(handle.params)

    def bind(self, trial: Trial, number: int) -> None:
        """Tie a proposal to the trial that was made of it."""
        study = self._study(trial.scale, trial.purpose)
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        self._storage.set_trial_user_attr(storage_id, "trial", trial.id)
        self._storage.set_trial_user_attr(storage_id, "seed", trial.seed)
        self._ids[trial.id] = storage_id

    def discard(self, scale: Scale, purpose: str, number: int) -> None:
        """Close a proposal that repeats a known trial."""
        self._study(scale, purpose).tell(number, state=TrialState.FAIL)

    def tell(self, trial: Trial, outcome: Outcome, last_point: LastPoint = None) -> None:
        """Close a trial with its outcome; a second call does nothing.

        A diverged trial gets its initial loss: Optuna's samplers need a finite value to avoid its point, and training
        that ends above its initial loss is as bad.

        Args:
            last_point: the last point of a pruned trial's curve.
        """
        value = outcome.loss if outcome.state == DONE else outcome.initial_loss
        failed = outcome.state == FAILED or value is None
        self._study(trial.scale, trial.purpose)
        resettable = failed or outcome.state == PRUNED  # `start` would add a second counterpart
        if resettable and trial.id in self._ids and self._frozen(trial).state.is_finished():
            return
        self.start(trial)
        frozen = self._frozen(trial)
        if frozen.state.is_finished():
            return
        self._storage.set_trial_user_attr(frozen._trial_id, "state", outcome.state)
        study = self._study(trial.scale, trial.purpose)
        if outcome.state == PRUNED:
            if last_point is not None:
                self._storage.set_trial_intermediate_value(frozen._trial_id, *last_point)
            study.tell(frozen.number, state=TrialState.PRUNED)
        elif failed:
            study.tell(frozen.number, state=TrialState.FAIL)
        else:
            study.tell(frozen.number, value)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._storage.get_trial(self._ids[trial.id])

    def _study(self, scale: Scale, purpose: str) -> optuna.Study:
        name = _study_name(scale.key, purpose)
        if name not in self._studies:
            study = optuna.create_study(
                storage=self._storage, study_name=name, direction="minimize", load_if_exists=True
            )
            # A resumed study continues with other random numbers than it began with. The seed is of the printed name:
            # it identifies nothing, and proposals stay what they were.
            seed = zlib.crc32(_study_name(scale.name, purpose).encode()) + len(study.get_trials(deepcopy=False))
            study.sampler = self._sampler.build(seed=seed)
            self._studies[name] = study
            for frozen in study.get_trials(deepcopy=False):
                if "trial" in frozen.user_attrs:
                    self._ids[frozen.user_attrs["trial"]] = frozen._trial_id
        return self._studies[name]

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {key: FloatDistribution(low, high, log=self._log[key]) for key, (low, high) in self._ranges.items()}


def _study_name(scale: str, purpose: str) -> str:
    return f"verify {scale}" if purpose == VERIFY else scale


class SingleWriterBackend(BaseJournalBackend):
    """Optuna's journal without its lock and its wait for the disk.

    Both would cost minutes with ten thousand trials. The driver is the only writer, and the trial folders replace lines
    that a crash of the machine tears off.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self._reader = JournalFileBackend(str(journal))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the journal's operations from a number on."""
        return self._reader.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations to the journal."""
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())


def _cut_torn_line(journal: Path) -> bool:
    """Cut off a half-written last line, which Optuna cannot read.

    Returns:
        True if the journal can be read; otherwise it has to be made again.
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
