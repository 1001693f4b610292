"""Execution of one job: leases of its trials, training by stacks, outcomes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hptransfer.core.attempts import read_history
from hptransfer.core.errors import (
    DISK_FULL,
    Interrupted,
    RunFolderError,
    Superseded,
)
from hptransfer.core.io import read_json, write_json, write_text
from hptransfer.core.locks import LockedError, lock
from hptransfer.core.records import (
    CODE_ERROR,
    FAILED,
    OUT_OF_MEMORY,
    Job,
    Outcome,
    Trial,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.interruption import StopCheck
from hptransfer.worker.runners import RUNNERS, StackContext
from hptransfer.worker.stack_sizes import split_stacks

# `hptransfer status` holds a lease for a moment to test it; a worker holds it while it trains. An attempt that has
# ended releases it within seconds; a file server needs up to 90 s to release the locks of a machine that is gone.
LEASE_WAIT_S = 1.0
SUPERSEDED_LEASE_WAIT_S = 100.0
CHECKPOINT_S = 300.0
# Errors of writing that are the machine's. The last is that of a log or terminal that was closed.
MACHINE_ERRORS = {*DISK_FULL, errno.EROFS, errno.EPIPE}


def run_job(
    folder: RunFolder,
    job: str,
    *,
    attempt: int | None = None,
    stop: StopCheck | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    stack: int = 0,
) -> str | None:
    """Train the trials of a job that have no outcome.

    A stack is skipped if all of its trials have outcomes, or if another worker holds one of them: two workers never
    train one trial. If only some have outcomes, the whole stack is trained as before from the last checkpoint. No
    outcome is written twice.

    Args:
        attempt: number of this attempt; None if the locks suffice to separate workers.
        stop: check for a stop before the job is done.
        stack: largest number of trials that train as one; 0 for the runner's choice.

    Returns:
        Why the machine makes the job stop, such as a full disk; None if all is well.

    Raises:
        Interrupted: the job was asked to stop; checkpoints are written.
        Superseded: the job's file names another attempt; nothing has been written since.
        RunFolderError: a file of the job is missing or damaged.
    """
    stop = stop or StopCheck()
    try:
        fence = stop.enter_job(folder, job, attempt)
        with ExitStack() as leases:
            held = _acquire_leases(folder, job, leases, LEASE_WAIT_S if attempt is None else SUPERSEDED_LEASE_WAIT_S)
            fence()  # it may have been superseded during the wait
            _JobRun(folder, folder.read_job(job), stop, fence, checkpoint_s).run(held, stack)
    except OSError as error:
        return machine_error(error, folder)
    finally:
        stop.leave_job()
    return None


def machine_error(error: OSError, folder: RunFolder) -> str:
    """Return why the machine makes a job stop.

    Raises:
        OSError: the given error, if it is none of the machine's.
    """
    if error.errno not in MACHINE_ERRORS:
        raise error
    return f"{error.strerror} ({folder.path})"


def _acquire_leases(folder: RunFolder, job: str, leases: ExitStack, total_wait_s: float) -> set[str]:
    """Acquire the free leases of a job's trials; return the trials' ids."""
    held = set()
    until = time.monotonic() + total_wait_s
    for trial_id in folder.read_job(job).trials:
        wait_s = max(LEASE_WAIT_S, until - time.monotonic())
        with contextlib.suppress(LockedError):
            leases.enter_context(lock(folder.lease(trial_id), wait_s=wait_s))
            held.add(trial_id)
    return held


class _JobRun:
    """One attempt of a job: its stacks, one after another."""

    def __init__(
        self, folder: RunFolder, job: Job, stop: StopCheck, fence: Callable[[], None], checkpoint_s: float
    ) -> None:
        self._folder, self._job = folder, job
        self._stop, self._fence, self._checkpoint_s = stop, fence, checkpoint_s
        self._stacks: list[list[str]] = []

    def _load_stacks(self, max_stack: int) -> list[list[str]]:
        """Return the stacks of an earlier attempt, or else new ones.

        A trial's numbers depend, by rounding, on the trials that it is stacked with.
        """
        trials, path = list(self._job.trials), self._folder.stacks_path(self._job.id)
        stacks: list[list[str]] = read_json(path, "stacks")["stacks"] if path.exists() else []
        if sorted(t for stack in stacks for t in stack) == sorted(trials):
            return self._separate_after_oom(stacks)
        return self._choose_stacks(max_stack)

    def _separate_after_oom(self, stacks: list[list[str]]) -> list[list[str]]:
        """Return the stacks, with trials separated if memory ended the last attempt.

        They are separated completely at once, because only few attempts may end this way.
        """
        unfinished = [stack for stack in stacks if self._has_unfinished(stack)]
        if not unfinished or not all(self._is_out_of_memory(trial_id) for stack in unfinished for trial_id in stack):
            return stacks
        first = unfinished[0]
        if len(first) > 1:
            trials = [self._folder.read_trial(trial_id) for trial_id in first]
            RUNNERS.get(trials[0].run["runner"]).note_out_of_memory(trials)
            self._folder.checkpoint_path(self._job.id, stacks.index(first)).unlink(missing_ok=True)
            print("memory was full in the attempt before this one: trials train alone", flush=True)
        return [part for stack in stacks for part in ([[trial] for trial in stack] if stack in unfinished else [stack])]

    def _is_out_of_memory(self, trial_id: str) -> bool:
        """Test if a trial has ended or last ran out of memory."""
        attempts = read_history(self._folder, trial_id).attempts
        ended = self._folder.outcome_path(trial_id).exists()
        return ended or bool(attempts and attempts[-1].cause == OUT_OF_MEMORY)

    def _choose_stacks(self, max_stack: int) -> list[list[str]]:
        """Split the job into stacks of compatible trials, of the runner's size.

        The job is one stack if the runner fails to determine a size.
        """
        trials = [self._folder.read_trial(trial_id) for trial_id in self._job.trials]
        runner = RUNNERS.get(trials[0].run["runner"])
        try:
            groups: list[tuple[Any, list[str]]] = []
            for trial in trials:
                key = runner.stack_key(trial.run)
                if not groups or groups[-1][0] != key:
                    groups.append((key, []))
                groups[-1][1].append(trial.id)
            size = max_stack or runner.stack_size(trials, self._stop)
        except (Interrupted, Superseded):
            raise
        except Exception:  # training will raise it again, and report it for each trial
            traceback.print_exc()
            return [list(self._job.trials)]
        return [stack for _, group in groups for stack in split_stacks(group, size)]

    def run(self, held: set[str], max_stack: int) -> None:
        if not held:
            return
        self._stacks = self._load_stacks(max_stack)
        self._write_stacks()
        index = 0
        while index < len(self._stacks):
            stack = self._stacks[index]
            pieces = self._train_stack(index, stack) if held.issuperset(stack) else [stack]
            if len(pieces) > 1:  # each is trained in turn, from its beginning
                self._stacks[index : index + 1] = pieces
                self._write_stacks()
            else:
                index += 1

    def _write_stacks(self) -> None:
        write_json(self._folder.stacks_path(self._job.id), {"stacks": self._stacks})

    def _train_stack(self, index: int, stack: list[str]) -> list[list[str]]:
        """Train a stack to its end.

        Returns:
            The stack, or the parts into which it must be split. They are halves after running out of memory. After
            another error they are single trials, to identify the one that fails.
        """
        checkpoint = self._folder.checkpoint_path(self._job.id, index)
        if not self._has_unfinished(stack):
            checkpoint.unlink(missing_ok=True)
            return [stack]
        if cause := self._stop():
            raise Interrupted(cause)
        context = StackContext(
            job=self._job.id,
            attempt=self._job.attempt,
            stack=index,
            checkpoint=checkpoint,
            checkpoint_s=self._checkpoint_s,
            stop=self._stop,
        )
        trials = [self._folder.read_trial(trial_id) for trial_id in stack]
        runner = RUNNERS.get(trials[0].run["runner"])
        started = time.monotonic()
        try:
            runner.execute(trials, self._folder, self._write_outcome, context)
            return [stack]
        except (Interrupted, Superseded):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
                raise
            traceback.print_exc()
            out_of_memory = isinstance(error, MemoryError)
            if len(stack) == 1:
                cause = OUT_OF_MEMORY if out_of_memory else CODE_ERROR
                self._write_failure(trials[0], error, cause, time.monotonic() - started)
        self._fence()
        checkpoint.unlink(missing_ok=True)
        half = len(stack) // 2
        if out_of_memory and half:
            runner.note_out_of_memory(trials)
            return [stack[:half], stack[half:]]
        return [[trial_id] for trial_id in stack]

    def _has_unfinished(self, stack: Sequence[str]) -> bool:
        return any(not self._folder.outcome_path(trial_id).exists() for trial_id in stack)

    def _restore_folder(self, trial: Trial) -> None:
        """Repair a trial's folder, whatever its script has done to it."""
        path, outcome = self._folder.trial(trial.id), self._folder.outcome_path(trial.id)
        if path.is_symlink() or path.is_file():
            path.unlink()
        if not (path / "trial.json").is_file():
            self._folder.write_trial(trial)
        try:
            self._folder.read_outcome(trial.id)
        except RunFolderError:  # no worker has written it
            shutil.rmtree(outcome) if outcome.is_dir() else outcome.unlink()

    def _write_outcome(self, trial: Trial, outcome: Outcome) -> None:
        self._fence()
        self._restore_folder(trial)
        if not self._folder.outcome_path(trial.id).exists():
            attempts = len(read_history(self._folder, trial.id).attempts) + 1
            node = os.environ.get("SLURMD_NODENAME")
            complete = replace(outcome, attempts=attempts, node=node)
            write_json(self._folder.outcome_path(trial.id), complete.to_json())

    def _write_failure(self, trial: Trial, error: Exception, cause: str, seconds: float) -> None:
        self._fence()
        self._restore_folder(trial)
        write_text(self._folder.trial(trial.id) / "traceback.txt", "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        self._write_outcome(trial, Outcome(state=FAILED, error=reason, cause=cause, seconds=seconds))
