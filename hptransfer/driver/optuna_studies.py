"""Optuna's view of a sweep: one study for each scale.

All studies are in one journal file.

A study is named by the scale's exact key. Each trial has a counterpart in Optuna, tied by the user attribute "trial".
The journal is a view that nothing is read from: `sync` writes it anew from the trial folders at every start. Where a
sampler chooses points, a trial's proposal.json holds the number of its counterpart and the sampler's state, so that
later proposals are the same as without the restart.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from hptransfer.core.io import open_for_writing, read_json, reading, write_json
from hptransfer.core.records import DONE, FAILED, LOSS, PRUNED, VERIFY, Objective, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.samplers import SamplerConfig

LastPoint = tuple[int, float] | None
"""A step and the training loss at it."""


@dataclass(frozen=True)
class Proposal:
    """Place of a trial in its study.

    Attributes:
        number: Optuna's number of its counterpart.
        state: values that the sampler stored with it, as JSON.
    """

    number: int
    state: Mapping[str, Any] = field(default_factory=dict)


class Studies:
    """All studies of one run.

    There is one writer: the caller holds the run's driver lock.

    Args:
        ranges: lowest and highest value of each tuned hyperparameter, for samplers that choose.
        log: True for each tuned hyperparameter that is searched on a log axis.
    """

    def __init__(
        self,
        folder: RunFolder,
        sampler: SamplerConfig,
        ranges: Mapping[str, tuple[float, float]],
        log: Mapping[str, bool],
        objective: Objective = LOSS,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._folder, self._sampler = folder, sampler
        self._ranges = dict(ranges)
        self._log = log
        self._objective = objective
        self._studies: dict[str, optuna.Study] = {}
        self._ids: dict[str, int] = {}
        # The driver is the only writer, so any lock here is left over from a driver that was killed.
        for earlier in (folder.journal, *folder.path.glob(f"{folder.journal.name}.lock*")):
            earlier.unlink(missing_ok=True)
        self._backend = SingleWriterBackend(folder.journal)
        self._storage = JournalStorage(self._backend)

    def sync(self, trials: Iterable[tuple[Trial, Outcome | None, LastPoint]]) -> None:
        """Fill new studies from the trial folders.

        A proposal that never became a trial, or that a later counterpart replaced, is a failed trial.
        """
        numbered = []
        with self._backend.deferred_writes():
            for row in trials:
                proposal = self._read_proposal(row[0].id)
                if proposal is None:
                    self._restore(*row)
                else:
                    numbered.append((proposal, row))
            for proposal, row in sorted(numbered, key=lambda pair: pair[0].number):
                study = self._study(row[0].scale, row[0].purpose)
                for _ in range(len(study.get_trials(deepcopy=False)), proposal.number):
                    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
                self._restore(*row, proposal)
        for study in self._studies.values():
            study.sampler = self._build_sampler(study)

    def _restore(
        self, trial: Trial, outcome: Outcome | None, last_point: LastPoint, proposal: Proposal | None = None
    ) -> None:
        """Add a trial's counterpart, if it has entered its study."""
        study = self._study(trial.scale, trial.purpose)
        self._widen(trial)
        if outcome is None and proposal is None:
            return
        state, value = (TrialState.RUNNING, None) if outcome is None else _end(outcome)
        counterpart = optuna.trial.create_trial(
            state=state,
            value=value,
            params=dict(trial.tuned),
            distributions=self._distributions(),
            user_attrs=_attributes(trial, outcome),
            system_attrs=dict(proposal.state) if proposal else {},
            intermediate_values=dict([last_point]) if state == TrialState.PRUNED and last_point else {},
        )
        self._ids[trial.id] = self._storage.create_new_trial(study._study_id, counterpart)

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
            user_attrs=_attributes(trial),
        )
        self._ids[trial.id] = self._storage.create_new_trial(study._study_id, running)
        self._write_proposal(trial)

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
        for key, value in _attributes(trial).items():
            self._storage.set_trial_user_attr(storage_id, key, value)
        self._ids[trial.id] = storage_id
        self._write_proposal(trial)

    def _write_proposal(self, trial: Trial) -> None:
        """Store a trial's place in its study, if the sampler chooses points."""
        if self._sampler.points is not None:
            frozen = self._frozen(trial)
            path = self._folder.proposal_path(trial.id)
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"number": frozen.number, "state": frozen.system_attrs})

    def _read_proposal(self, trial_id: str) -> Proposal | None:
        path = self._folder.proposal_path(trial_id)
        if self._sampler.points is None or not path.exists():
            return None
        values = read_json(path, "number", "state")
        with reading(path):
            return Proposal(int(values["number"]), dict(values["state"]))

    def discard(self, scale: Scale, purpose: str, number: int) -> None:
        """Close a proposal that repeats a known trial."""
        self._study(scale, purpose).tell(number, state=TrialState.FAIL)

    def tell(self, trial: Trial, outcome: Outcome, last_point: LastPoint = None) -> None:
        """Close a trial with its outcome; a second call does nothing.

        Args:
            last_point: the last point of a pruned trial's curve.
        """
        state, value = _end(outcome)
        study = self._study(trial.scale, trial.purpose)
        resettable = state != TrialState.COMPLETE  # `start` would add a second counterpart
        if resettable and trial.id in self._ids and self._frozen(trial).state.is_finished():
            return
        self.start(trial)
        frozen = self._frozen(trial)
        if frozen.state.is_finished():
            return
        self._storage.set_trial_user_attr(frozen._trial_id, "state", outcome.state)
        if state == TrialState.PRUNED and last_point is not None:
            self._storage.set_trial_intermediate_value(frozen._trial_id, *last_point)
        study.tell(frozen.number, value, state)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._storage.get_trial(self._ids[trial.id])

    def _study(self, scale: Scale, purpose: str) -> optuna.Study:
        name = _study_name(scale.key, purpose)
        if name not in self._studies:
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="maximize" if self._objective.maximized else "minimize",
            )
            # The seed is of the printed name: it identifies nothing, and proposals stay what they were.
            study.set_user_attr("seed", zlib.crc32(_study_name(scale.name, purpose).encode()))
            study.sampler = self._build_sampler(study)
            self._studies[name] = study
        return self._studies[name]

    def _build_sampler(self, study: optuna.Study) -> optuna.samplers.BaseSampler:
        """Build a study's sampler; a resumed study continues with new random numbers."""
        return self._sampler.build(seed=study.user_attrs["seed"] + len(study.get_trials(deepcopy=False)))

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {key: FloatDistribution(low, high, log=self._log[key]) for key, (low, high) in self._ranges.items()}


def _study_name(scale: str, purpose: str) -> str:
    return f"verify {scale}" if purpose == VERIFY else scale


def _attributes(trial: Trial, outcome: Outcome | None = None) -> dict[str, Any]:
    """Return the user attributes that tie a counterpart to its trial."""
    attributes = {"trial": trial.id, "seed": trial.seed}
    return attributes if outcome is None else attributes | {"state": outcome.state}


def _end(outcome: Outcome) -> tuple[TrialState, float | None]:
    """Return the state and value by which Optuna learns of an outcome.

    A diverged trial gets its initial loss: Optuna's samplers need a finite value to avoid its point, and training that
    ends above its initial loss is as bad.
    """
    if outcome.state == PRUNED:
        return TrialState.PRUNED, None
    value = outcome.loss if outcome.state == DONE else outcome.initial_loss
    if outcome.state == FAILED or value is None:
        return TrialState.FAIL, None
    return TrialState.COMPLETE, value


class SingleWriterBackend(BaseJournalBackend):
    """New journal of Optuna, without locks and waits for the disk.

    Both would cost minutes with ten thousand trials. The driver is the only writer, so it need not read the file again,
    and the trial folders replace lines that a crash of the machine tears off.
    """

    def __init__(self, journal: Path) -> None:
        self._path = journal
        self._lines: list[str] = []
        """Lines from number `_first` on, which Optuna has not read yet."""
        self._first = 0
        self._deferred: list[str] | None = None
        self._write([])

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the journal's operations from a number on, once."""
        del self._lines[: log_number_from - self._first]
        self._first = log_number_from
        return map(json.loads, tuple(self._lines))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations to the journal."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._lines += lines
        if self._deferred is None:
            self._write(lines)
        else:
            self._deferred += lines

    @contextmanager
    def deferred_writes(self) -> Iterator[None]:
        """Write the block's operations at its end, at once."""
        self._deferred = []
        yield
        self._write(self._deferred)
        self._deferred = None

    def _write(self, lines: Iterable[str]) -> None:
        with open_for_writing(self._path, "a") as file:
            file.write("".join(f"{line}\n" for line in lines))
