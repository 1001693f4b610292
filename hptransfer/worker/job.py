"""One job on its worker: leases of its trials, stacks in turn, outcomes."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hptransfer.core.attempts import read_history
from hptransfer.core.errors import (
    Interrupted,
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
from hptransfer.worker.stack_sizes import split

# A look at a lease (`hptransfer status`) holds it for a moment; who trains holds it for longer. An attempt that is over
# lets go within seconds; a file server takes up to 90 s to let go of the locks of a machine that is gone.
LEASE_PATIENCE_S = 1.0
SUPERSEDING_PATIENCE_S = 100.0
CHECKPOINT_S = 300.0
MACHINE_STOPS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def run_job(
    folder: RunFolder,
    job: str,
    *,
    attempt: int | None = None,
    stop: StopCheck | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    stack: int = 0,
) -> str | None:
    """Trains what is still to be trained of a job.

    A stack with a trial that somebody else holds is left alone, as is one whose trials all have outcomes: two
    workers never train one trial. Where some of them have, all are trained again together, as they were at first,
    but from the last checkpoint on, and no outcome is written twice.

    Args:
        attempt: that this is; None where the locks are enough to keep workers apart.
        stop: when to end before the job is done.
        stack: trials that train as one, at most; 0: the runner says.

    Returns:
        Why the machine would not let it go on, such as a full disk; None if all is well.

    Raises:
        Interrupted: it was to stop; checkpoints are written.
        Superseded: the job's file names another attempt; nothing was touched since it does.
        RunFolderError: a file of the job is missing or damaged.
    """
    stop = stop or StopCheck()
    try:
        fence = stop.guard(folder, job, attempt)
        with ExitStack() as leases:
            held = _take(folder, job, leases, LEASE_PATIENCE_S if attempt is None else SUPERSEDING_PATIENCE_S)
            fence()  # it may have been superseded while it waited
            _Job(folder, folder.read_job(job), stop, fence, checkpoint_s).run(held, stack)
    except OSError as error:
        if error.errno not in MACHINE_STOPS:
            raise
        return f"{error.strerror} ({folder.path})"
    finally:
        stop.free()
    return None


def _take(folder: RunFolder, job: str, leases: ExitStack, patience_s: float) -> set[str]:
    """Takes the leases of a job's trials, as many as can be had."""
    held = set()
    until = time.monotonic() + patience_s
    for trial_id in folder.read_job(job).trials:
        wait_s = max(LEASE_PATIENCE_S, until - time.monotonic())
        with contextlib.suppress(LockedError):
            leases.enter_context(lock(folder.lease(trial_id), wait_s=wait_s))
            held.add(trial_id)
    return held


class _Job:
    """One job while it runs: its stacks, one after another."""

    def __init__(
        self, folder: RunFolder, job: Job, stop: StopCheck, fence: Callable[[], None], checkpoint_s: float
    ) -> None:
        self._folder, self._job = folder, job
        self._stop, self._fence, self._checkpoint_s = stop, fence, checkpoint_s
        self._stacks: list[list[str]] = []

    def _split(self, most: int) -> list[list[str]]:
        """The stacks, as an attempt before this one left them: who trains with whom is part of the numbers."""
        trials, path = list(self._job.trials), self._folder.stacks_path(self._job.id)
        stacks: list[list[str]] = read_json(path, "stacks")["stacks"] if path.exists() else []
        if sorted(t for stack in stacks for t in stack) == sorted(trials):
            return self._apart_after_full_memory(stacks)
        return self._chosen(most)

    def _apart_after_full_memory(self, stacks: list[list[str]]) -> list[list[str]]:
        """The stacks, but trials alone where the worker before was ended, as memory was full, in one of them.

        Alone at once, as few attempts may end so.
        """
        left = [stack for stack in stacks if self._open(stack)]
        if not left or not all(self._out_of_memory(trial_id) for stack in left for trial_id in stack):
            return stacks
        if len(left[0]) > 1:
            trials = [self._folder.read_trial(trial_id) for trial_id in left[0]]
            RUNNERS.get(trials[0].run["runner"]).too_many(trials)
            self._folder.checkpoint_path(self._job.id, stacks.index(left[0])).unlink(missing_ok=True)
            print("memory was full in the attempt before this one: trials train alone", flush=True)
        return [part for stack in stacks for part in ([[trial] for trial in stack] if stack in left else [stack])]

    def _out_of_memory(self, trial_id: str) -> bool:
        """Whether a trial has ended, or its last attempt did as memory was full."""
        attempts = read_history(self._folder, trial_id).attempts
        ended = self._folder.outcome_path(trial_id).exists()
        return ended or bool(attempts and attempts[-1].cause == OUT_OF_MEMORY)

    def _chosen(self, most: int) -> list[list[str]]:
        """Stacks of trials that may train as one, as large as the runner would have them; one where it cannot tell."""
        trials = [self._folder.read_trial(trial_id) for trial_id in self._job.trials]
        runner = RUNNERS.get(trials[0].run["runner"])
        try:
            groups: list[tuple[Any, list[str]]] = []
            for trial in trials:
                shared = runner.shared(trial.run)
                if not groups or groups[-1][0] != shared:
                    groups.append((shared, []))
                groups[-1][1].append(trial.id)
            size = most or runner.stack_size(trials, self._stop)
        except (Interrupted, Superseded):
            raise
        except Exception:  # whatever it is that training runs into too, where it is said trial by trial
            traceback.print_exc()
            return [list(self._job.trials)]
        return [stack for _, group in groups for stack in split(group, size)]

    def run(self, held: set[str], most: int) -> None:
        if not held:
            return
        self._stacks = self._split(most)
        self._write_split()
        index = 0
        while index < len(self._stacks):
            stack = self._stacks[index]
            pieces = self._train(index, stack) if held.issuperset(stack) else [stack]
            if len(pieces) > 1:  # each is tried in turn, from its beginning
                self._stacks[index : index + 1] = pieces
                self._write_split()
            else:
                index += 1

    def _write_split(self) -> None:
        write_json(self._folder.stacks_path(self._job.id), {"stacks": self._stacks})

    def _train(self, index: int, stack: list[str]) -> list[list[str]]:
        """Trains a stack to its end, or says what to split it into: one that fails is told from the others so."""
        checkpoint = self._folder.checkpoint_path(self._job.id, index)
        if not self._open(stack):
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
            runner.execute(trials, self._folder, self._finish, context)
            return [stack]
        except (Interrupted, Superseded):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MACHINE_STOPS:
                raise
            traceback.print_exc()
            memory = isinstance(error, MemoryError)
            if len(stack) == 1:
                self._fail(trials[0], error, OUT_OF_MEMORY if memory else CODE_ERROR, time.monotonic() - started)
        self._fence()
        checkpoint.unlink(missing_ok=True)
        half = len(stack) // 2
        if memory and half:
            runner.too_many(trials)
            return [stack[:half], stack[half:]]
        return [[trial_id] for trial_id in stack]

    def _open(self, stack: Sequence[str]) -> bool:
        return any(not self._folder.outcome_path(trial_id).exists() for trial_id in stack)

    def _finish(self, trial: Trial, outcome: Outcome) -> None:
        self._fence()
        if not self._folder.outcome_path(trial.id).exists():
            attempts = len(read_history(self._folder, trial.id).attempts) + 1
            node = os.environ.get("SLURMD_NODENAME")
            whole = replace(outcome, attempts=attempts, node=node)
            write_json(self._folder.outcome_path(trial.id), whole.to_json())

    def _fail(self, trial: Trial, error: Exception, cause: str, seconds: float) -> None:
        self._fence()
        write_text(self._folder.trial(trial.id) / "traceback.txt", "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        self._finish(trial, Outcome(state=FAILED, error=reason, cause=cause, seconds=seconds))
