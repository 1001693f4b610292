"""Files of a run folder, with the process that writes each.

    runs/<name>/
      owner.json                                   tokens of the users who made or trusted it       driver
      sweep.yaml  target.json  environment.json    resolved sweep, its target, host and packages    driver
      snapshots/<n>/                               code state, packages and settings at a start     driver
      source/  source.json                         copy of the source tree (snapshot: true)         driver
      driver.lock                                  lock of the driver: pid, host, since             driver
      driver.json                                  waiting scales, delayed jobs, blocking reason    driver
      driver.log                                   output of a driver in the background             driver
      finished.jsonl                               index of finished trials, one line each          driver
      requests/                                    requests to the driver                           cancel, retry
      study.journal  mlflow.db  mlflow-artifacts/  views of the trial folders                       driver
      versions/<fingerprint>/                      files of a script's command at its first start   driver
      earlier/<n>/                                 trials of a sweep that was corrected first       driver
      jobs/<id>.json                               trials of one worker, number of the attempt      driver
      jobs/<id>.stacks.json                        split of the job's trials into stacks            worker
      jobs/<id>.reached.json                       progress when a job asked for more time          worker
      jobs/<id>.log                                output of the job                                worker
      jobs/<id>.<stack>.checkpoint                 checkpoint of a stack                            worker
      jobs/states.json                             states of the scheduler's jobs                   driver
      trials/<id>/trial.json                       configuration of the trial                       driver
      trials/<id>/proposal.json                    its place in Optuna's study; the sampler's state driver
      trials/<id>/attempts.json                    attempts that ended without a result             driver
      trials/<id>/behind.json                      pruning decision (successive halving)            driver
      trials/<id>/limit.json                       time limit by other trials (timeout_factor)      driver
      trials/<id>/lease                            lock of the worker that trains the trial         worker
      trials/<id>/metrics.jsonl                    curve of the trial                               worker
      trials/<id>/outcome.json  traceback.txt      result of the trial; its error                   worker
      records.csv  optima.csv  fit.json            tables and fit                                   analyze
      prediction.json  predictions.csv  next.csv   predictions, and the runs worth most             analyze
      report.html                                  the page                                         analyze
      verification.json, verification-<scale>.json regret at the target, or at another scale        verify

Every file that decides anything is replaced atomically. The trial folders are the source of truth: everything else can
be rebuilt from them. Locks keep writers apart: one driver for each run, one worker for each trial.

A run folder is private to its owner, or shared with a group (`set_permissions`). Every process that writes into it
makes files that are at most as open as the folder (`restricted_umask`). Files of `write_text` hold no passwords.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.errors import DISK_FULL, RunFolderError, StoppedError
from hptransfer.core.io import file_name, open_for_writing, read_json, reading, write_json
from hptransfer.core.permissions import PRIVATE, claim, restricted_umask, set_permissions
from hptransfer.core.records import FAILED, Job, Outcome, Scale, Trial


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and access to its trials and jobs."""

    path: Path

    @property
    def sweep(self) -> Path:
        """Path of the resolved sweep."""
        return self.path / "sweep.yaml"

    @property
    def target(self) -> Path:
        """Path of the target: its scale, cost, settings and parameter groups."""
        return self.path / "target.json"

    @property
    def environment(self) -> Path:
        """Path of command, host and package versions of the last start."""
        return self.path / "environment.json"

    @property
    def driver_lock(self) -> Path:
        """Path of the driver's lock."""
        return self.path / "driver.lock"

    @property
    def journal(self) -> Path:
        """Path of Optuna's journal."""
        return self.path / "study.journal"

    @property
    def mlflow(self) -> Path:
        """Path of the embedded MLflow store."""
        return self.path / "mlflow.db"

    @property
    def prediction(self) -> Path:
        """Path of the prediction for the target."""
        return self.path / "prediction.json"

    @property
    def verification(self) -> Path:
        """Path of the verification at the target."""
        return self.path / "verification.json"

    def verification_of(self, scale: Scale) -> Path:
        """Return the verification file of a scale other than the target."""
        return self.path / file_name(f"verification-{scale.key}.json")

    def read_verification_of(self, scale: Scale) -> dict[str, Any] | None:
        """Read the verification of a scale other than the target, if any.

        Versions before 0.2 named the file by the axes' values with four digits. Such a file is read if it is of
        exactly this scale.

        Raises:
            RunFolderError: the file is damaged.
        """
        earlier = self.path / file_name(f"verification-{scale.name}.json")
        for path in (self.verification_of(scale), earlier):
            if path.exists():
                values = read_json(path, "scale")
                if values["scale"] == scale.axes:
                    return values
        return None

    @property
    def snapshots(self) -> Path:
        """Folder of the snapshots, one for each changed state of the code."""
        return self.path / "snapshots"

    @property
    def source(self) -> Path:
        """Folder of the copied source tree of a script."""
        return self.path / "source"

    @property
    def unfinished_source(self) -> Path:
        """Folder of the source tree while it is copied."""
        return self.path / ".source.unfinished"

    @property
    def source_origin(self) -> Path:
        """Path of the origin of the copied source tree."""
        return self.path / "source.json"

    def working_directory(self, cwd: str) -> Path:
        """Return a script's working directory: `cwd`, or its copy in the run.

        Raises:
            RunFolderError: source.json is damaged, or names a folder outside the copy.
        """
        if not self.source.exists():
            return Path(cwd)
        copied = (self.source / str(read_json(self.source_origin, "cwd")["cwd"])).resolve()
        if not copied.is_relative_to(self.source.resolve()):
            raise RunFolderError(f"{self.source_origin}: cwd must be below {self.source}, got {copied}")
        return copied

    @property
    def report(self) -> Path:
        """Path of the page."""
        return self.path / "report.html"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs."""
        return self.path / "jobs"

    def trial(self, trial_id: str) -> Path:
        """Return the folder of a trial."""
        return self.path / "trials" / trial_id

    def outcome_path(self, trial_id: str) -> Path:
        """Return the path of a trial's outcome."""
        return self.trial(trial_id) / "outcome.json"

    def curve_path(self, trial_id: str) -> Path:
        """Return the path of a trial's curve."""
        return self.trial(trial_id) / "metrics.jsonl"

    def pruned_path(self, trial_id: str) -> Path:
        """Return the path of the file that marks a trial as pruned.

        The trial stops early, because other trials of its scale are better.
        """
        return self.trial(trial_id) / "behind.json"

    def limit_path(self, trial_id: str) -> Path:
        """Return the path of a trial's time limit by other trials."""
        return self.trial(trial_id) / "limit.json"

    def proposal_path(self, trial_id: str) -> Path:
        """Return the path of a trial's place in its Optuna study."""
        return self.trial(trial_id) / "proposal.json"

    def lease(self, trial_id: str) -> Path:
        """Return the path of a trial's lease."""
        return self.trial(trial_id) / "lease"

    def create(self, share: str | None = None) -> None:
        """Create the folder, private to its owner or shared with a group.

        A new folder is the user's own (core/permissions.py).

        Args:
            share: name of the group.

        Raises:
            RunFolderError: it cannot be written, or shared with the group.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=True, mode=PRIVATE)
            set_permissions(self.path, share)
            with restricted_umask(self.path):
                if not any(self.path.iterdir()):
                    claim(self.path)
                self.jobs.mkdir(exist_ok=True)
                (self.path / "trials").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.path} cannot be written ({error.strerror}); "
                "choose another place with runs=DIR or name=NAME"
            ) from None

    def mark(self) -> None:
        """Mark the folder as a run's, before a driver holds its lock."""
        open_for_writing(self.driver_lock, "a").close()

    def write_trial(self, trial: Trial) -> None:
        """Write a trial; create its folder if missing."""
        self.trial(trial.id).mkdir(exist_ok=True)
        write_json(self.trial(trial.id) / "trial.json", trial.to_json())

    def read_trial(self, trial_id: str) -> Trial:
        """Read a trial.

        Raises:
            RunFolderError: the trial does not exist, or its file is damaged.
        """
        path = self.trial(trial_id) / "trial.json"
        if not path.exists():
            raise RunFolderError(f"{self.path} has no trial {trial_id!r}; `hptransfer status` lists them")
        values = read_json(path)
        with reading(path):
            return Trial.from_json(values, trial_id)

    def read_trials(self) -> list[Trial]:
        """Return all trials, sorted by id.

        A folder without a trial.json, left by a driver that was killed, is skipped. So is a copy of a trial's folder
        under another name.
        """
        return list(self.each_trial())

    def each_trial(self) -> Iterator[Trial]:
        """Yield all trials, sorted by id, one in memory at a time."""
        for path in sorted(self.path.glob("trials/*/trial.json")):
            values = read_json(path)
            if values.get("id", path.parent.name) != path.parent.name:
                continue
            with reading(path):
                trial = Trial.from_json(values, path.parent.name)
            yield trial

    def has_result(self, purpose: str) -> bool:
        """Test if any trial of a purpose has trained, whatever came out."""
        trials = (trial for trial in self.each_trial() if trial.purpose == purpose)
        outcomes = (self.read_outcome(trial.id) for trial in trials)
        return any(outcome is not None and outcome.state != FAILED for outcome in outcomes)

    def job_path(self, job_id: str) -> Path:
        """Return the path of a job's file."""
        return self.jobs / f"{job_id}.json"

    def stacks_path(self, job_id: str) -> Path:
        """Return the path of the split of a job into stacks."""
        return self.jobs / f"{job_id}.stacks.json"

    def reached_path(self, job_id: str) -> Path:
        """Return the path of a job's progress at its last time limit.

        The worker writes it when it asks to be run again.
        """
        return self.jobs / f"{job_id}.reached.json"

    def checkpoint_path(self, job_id: str, stack: int) -> Path:
        """Return the path of a stack's checkpoint."""
        return self.jobs / f"{job_id}.{stack}.checkpoint"

    def write_job(self, job: Job) -> None:
        """Write a job."""
        write_json(self.job_path(job.id), job.to_json())

    def read_job(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            RunFolderError: the job's file is damaged.
        """
        values = read_json(self.job_path(job_id))
        with reading(self.job_path(job_id)):
            return Job.from_json(values, job_id)

    def read_outcome(self, trial_id: str) -> Outcome | None:
        """Read a trial's outcome; None if it is not finished.

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
    """Report operating-system errors of the block as one line.

    Raises:
        StoppedError: the disk is full, or the folder has vanished, for example.
    """
    try:
        yield
    except OSError as error:
        mend = "make room" if error.errno in DISK_FULL else "mend its cause"
        raise StoppedError(
            f"stopped: writing {error.filename or f'under {folder.path}'} failed ({error.strerror or error}); finished "
            f"trials are kept: {mend}, then run the same command again"
        ) from error
