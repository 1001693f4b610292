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

A run folder is its owner's alone, or a group's too (`protect`); every process that writes into it
makes files that are no more open than the folder (`guarded`). No file made by `write_text` holds a password.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hptransfer.core.errors import ConfigError, RunFolderError, StoppedError
from hptransfer.core.records import Job, Outcome, Scale, Trial
from hptransfer.core.redact import redacted

SCHEMA = 1
# Some network file systems have no locks. There a job's attempt, which its file names, keeps workers apart.
LOCKLESS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
PRIVATE = 0o700
SHARED = stat.S_ISGID | 0o770
NAME_CHARS = 120


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new one, never a part, and no password."""
    temporary = path.with_name(f".{path.name[:NAME_CHARS]}.{secrets.token_hex(4)}")
    # Its mode is the umask's. No file of another's is opened, nor a link followed.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(redacted(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_name(text: str) -> str:
    """A name for one file that text from outside makes: no separators, of bounded length, different for other text."""
    plain = re.sub(r"[^\w=.,+-]", "_", text, flags=re.ASCII)[:NAME_CHARS]
    if plain == text and not text.startswith("."):
        return text
    return f"{plain.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with its schema version, in one step. NaN and infinity are refused."""
    write_text(path, json.dumps({"schema": SCHEMA, **values}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Args:
        keys: what must be there.

    Raises:
        RunFolderError: the file is not such JSON, or a newer version of the tool wrote it.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    with damage(path):
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        schema = int(values.pop("schema"))
        for key in keys:
            values[key]
    if schema > SCHEMA:
        raise RunFolderError(f"{path} has schema {schema}, this version reads up to {SCHEMA}; upgrade hptransfer")
    return dict(values)


def set_aside(path: Path) -> None:
    """Renames a file that cannot be used, to a name that is free."""
    number = 1
    while (free := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    path.rename(free)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns what a damaged file does to its reader into one line.

    Raises:
        RunFolderError: the block could not make sense of the file.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RunFolderError(f"{path} is damaged ({reason}); move it away, then run the same sweep again") from None


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends one line a row in a single write."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSON-lines file; a torn last line (a writer was killed) is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def cut_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leaves, or makes, a JSON-lines file with those of its rows that are to be kept, in one step."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in read_jsonl(path) if keep(row)))


@contextmanager
def made_writable(out: Path | None) -> Iterator[None]:
    """Makes the folder that `--out` names, if any, before what is computed for it; takes it back if that ends early.

    Raises:
        ConfigError: files cannot be written there.
    """
    if out is None:
        yield
        return
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_writable(out)
    try:
        yield
    except BaseException:
        for folder in new:
            folder.rmdir()
        raise


def make_writable(out: Path) -> None:
    """Makes the folder that `--out` names, before anything is computed for it.

    Raises:
        ConfigError: files cannot be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None


class LockedError(Exception):
    """Somebody else holds the lock; `holder` is what they wrote about themselves."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__(str(holder))
        self.holder = holder


@contextmanager
def lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds a file's lock. The kernel lets go of it when the process ends, however it ends.

    Raises:
        LockedError: it is still held by somebody else after `wait_s` seconds.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while not _try(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise LockedError(_holder(file))
            time.sleep(0.02)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        yield


def locked_by(path: Path) -> dict[str, Any] | None:
    """Who holds a lock now, or None. Looking never stands in a writer's way for long."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        return None if _try(file, fcntl.LOCK_SH) else _holder(file)


def _try(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
    return True


def _holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.load(file))
    except ValueError:
        return {}


def protect(folder: Path, share: str | None) -> None:
    """Makes a folder and all in it its owner's alone, or a group's too; what belongs to other users is left to them.

    Raises:
        RunFolderError: there is no such group, or the user is not in it.
    """
    mode, group = (SHARED, _group(share)) if share else (PRIVATE, -1)
    there = folder.stat()
    if stat.S_IMODE(there.st_mode) == mode and group in (-1, there.st_gid):
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.chown(path, -1, group)
            runs = path.stat().st_mode & stat.S_IXUSR
            path.chmod(mode if path.is_dir() else mode & (0o777 if runs else 0o666))


def _group(name: str) -> int:
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise RunFolderError(f"share: there is no group {name!r} on this machine; `id -Gn` lists yours") from None
    if os.geteuid() and number not in {os.getegid(), *os.getgroups()}:
        raise RunFolderError(f"share: you are not in the group {name!r}; `id -Gn` lists yours")
    return number


def guard(folder: Path) -> int:
    """Has this process make files that are no more open than a run folder; returns the umask that it had before."""
    return os.umask(~folder.stat().st_mode & 0o077)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """`guard` for a while."""
    before = guard(folder)
    try:
        yield
    finally:
        os.umask(before)


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
        """Of another scale than the target."""
        return self.path / file_name(f"verification-{scale.name}.json")

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
            protect(self.path, share)
            with guarded(self.path):
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
        with damage(path):
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
        with damage(self.job_path(job_id)):
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
        with damage(path):
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
