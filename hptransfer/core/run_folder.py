"""The run folder: who writes which file, atomically, and the locks that keep writers apart.

    runs/<name>/
      sweep.yaml  target.json  environment.json   the sweep, its target, where it ran     (driver)
      snapshots/<n>/                              code, packages, settings at a start     (driver)
      source/  source.json                        what trials train from, if snapshot     (driver)
      driver.lock  driver.log  driver.json        who drives this run; what it says       (driver)
      finished.jsonl                              a line a finished trial                 (driver)
      requests/                                   what is asked of the driver             (cancel, retry)
      study.journal  mlflow.db  mlflow-artifacts/ views of the trial folders              (driver)
      jobs/<id>.json, <id>.stacks.json, <id>.log  trials of one worker, their split       (driver; job)
      jobs/<id>.<stack>.checkpoint                where the training of a stack is        (job)
      trials/<id>/trial.json, attempts.json       what to train; what ended early         (driver)
      trials/<id>/behind.json                     that it is to stop, if halving          (driver)
      trials/<id>/lease, metrics.jsonl, outcome.json, traceback.txt                       (job)
      records.csv optima.csv fit.json prediction.json predictions.csv report.html         (analyze)
      verification.json                                                                   (verify)

The trial folders are the truth; everything else can be made again from them.

A run folder is its owner's alone, or a group's too (`set_permissions`); every process that writes into it
makes files that are no more open than the folder (`restricted_umask`). No file made by `write_text` holds a password.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.errors import RunFolderError, StoppedError
from hptransfer.core.io import file_name, read_json, reading, write_json
from hptransfer.core.permissions import PRIVATE, restricted_umask, set_permissions
from hptransfer.core.records import Job, Outcome, Scale, Trial


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and reading and writing of its trials."""

    path: Path

    @property
    def sweep(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def target(self) -> Path:
        return self.path / "target.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def driver_lock(self) -> Path:
        return self.path / "driver.lock"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def mlflow(self) -> Path:
        return self.path / "mlflow.db"

    @property
    def prediction(self) -> Path:
        return self.path / "prediction.json"

    @property
    def verification(self) -> Path:
        return self.path / "verification.json"

    def verification_of(self, scale: Scale) -> Path:
        """Return the verification file of a scale that is not the target."""
        return self.path / file_name(f"verification-{scale.key}.json")

    def read_verification_of(self, scale: Scale) -> dict[str, Any] | None:
        """Return the verification of a scale that is not the target; None without one.

        Versions before 0.2 named the file by the axes' values with four digits. Such a file is read if it is of
        exactly this scale.

        Raises:
            RunFolderError: the file is damaged.
        """
        old = self.path / file_name(f"verification-{scale.name}.json")
        for path in (self.verification_of(scale), old):
            if path.exists():
                values = read_json(path, "scale")
                if values["scale"] == scale.axes:
                    return values
        return None

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def source(self) -> Path:
        return self.path / "source"

    @property
    def source_origin(self) -> Path:
        return self.path / "source.json"

    def working_directory(self, cwd: str) -> Path:
        """Where a script that is configured to run in `cwd` runs: in the run's copy of the source tree, if it has one.

        Raises:
            RunFolderError: what says where the copy is from is damaged.
        """
        if not self.source.exists():
            return Path(cwd)
        return (self.source / str(read_json(self.source_origin, "cwd")["cwd"])).resolve()

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    def trial(self, trial_id: str) -> Path:
        return self.path / "trials" / trial_id

    def outcome_path(self, trial_id: str) -> Path:
        return self.trial(trial_id) / "outcome.json"

    def curve_path(self, trial_id: str) -> Path:
        return self.trial(trial_id) / "metrics.jsonl"

    def behind_path(self, trial_id: str) -> Path:
        """There if the trial is to stop before its end, as others of its scale are better."""
        return self.trial(trial_id) / "behind.json"

    def lease(self, trial_id: str) -> Path:
        return self.trial(trial_id) / "lease"

    def create(self, share: str | None = None) -> None:
        """Makes the folder, its owner's alone or a group's too.

        Args:
            share: name of the group.

        Raises:
            RunFolderError: it cannot be written, or given to the group.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=True, mode=PRIVATE)
            set_permissions(self.path, share)
            with restricted_umask(self.path):
                self.jobs.mkdir(exist_ok=True)
                (self.path / "trials").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.path} cannot be written ({error.strerror}); "
                "choose another place with runs=DIR or name=NAME"
            ) from None

    def write_trial(self, trial: Trial) -> None:
        self.trial(trial.id).mkdir(exist_ok=True)
        write_json(self.trial(trial.id) / "trial.json", trial.to_json())

    def read_trial(self, trial_id: str) -> Trial:
        """
        Raises:
            RunFolderError: there is no such trial, or its file is damaged.
        """
        path = self.trial(trial_id) / "trial.json"
        if not path.exists():
            raise RunFolderError(f"{self.path} has no trial {trial_id!r}; `hptransfer status` lists them")
        values = read_json(path)
        with reading(path):
            return Trial.from_json(values)

    def read_trials(self) -> list[Trial]:
        """All trials, in a stable order. A folder whose trial.json was never finished is passed over."""
        return list(self.each_trial())

    def each_trial(self) -> Iterator[Trial]:
        """The same one after another, for who need not hold the configurations of thousands."""
        for path in sorted(self.path.glob("trials/*/trial.json")):
            yield self.read_trial(path.parent.name)

    def job_path(self, job_id: str) -> Path:
        return self.jobs / f"{job_id}.json"

    def stacks_path(self, job_id: str) -> Path:
        return self.jobs / f"{job_id}.stacks.json"

    def reached_path(self, job_id: str) -> Path:
        """How far a job had come when its worker last asked to be run again at its time limit."""
        return self.jobs / f"{job_id}.reached.json"

    def checkpoint_path(self, job_id: str, stack: int) -> Path:
        return self.jobs / f"{job_id}.{stack}.checkpoint"

    def write_job(self, job: Job) -> None:
        write_json(self.job_path(job.id), job.to_json())

    def read_job(self, job_id: str) -> Job:
        """
        Raises:
            RunFolderError: the job's file is damaged.
        """
        values = read_json(self.job_path(job_id))
        with reading(self.job_path(job_id)):
            return Job.from_json(values)

    def read_outcome(self, trial_id: str) -> Outcome | None:
        """
        Raises:
            RunFolderError: the outcome's file is damaged.
        """
        path = self.outcome_path(trial_id)
        if not path.exists():
            return None
        values = read_json(path)
        with reading(path):
            return Outcome.from_json(values)


@contextmanager
def disk_errors(folder: RunFolder) -> Iterator[None]:
    """Turns a full disk or a vanished folder into one line; finished trials are safe by then.

    Raises:
        StoppedError: an operating-system error came out of the block.
    """
    try:
        yield
    except OSError as error:
        raise StoppedError(
            f"stopped: writing under {folder.path} failed ({error.strerror or error}); finished trials "
            "are kept: make room, then run the same command again"
        ) from error
