"""The port behind which trials are trained: sizes and checks before, training on a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hptransfer.core.records import Outcome, Trial
from hptransfer.core.registry import Registry
from hptransfer.core.run_folder import RunFolder

OnTrialEnd = Callable[[Trial, Outcome], None]
"""Called by a runner as each trial ends, whichever way."""


@dataclass(frozen=True)
class StackContext:
    """What a runner is told of the stack that it trains, beside the trials themselves.

    Attributes:
        job, attempt: whose stack it is, and which submission of that job this is.
        stack: its index in the job.
        checkpoint: a file of this stack's own, in which the runner may keep what it needs to go on where it was. It
            may be there from an earlier attempt. The runner removes it once all trials have ended.
        checkpoint_s: seconds between two checkpoints that nothing asks for, as a node may vanish without a word.
        stop: asked between any two steps, as it costs nothing: why training is to stop now, one of records.CAUSES,
            or None. Where the answer is a cause, the runner saves its state and raises Interrupted(cause). It raises
            Superseded itself where another attempt has taken over, after which nothing may be written.
    """

    job: str
    attempt: int
    stack: int
    checkpoint: Path
    checkpoint_s: float
    stop: Callable[[], str | None]


@dataclass(frozen=True)
class Size:
    """What one run costs: trainable parameters, training FLOPs."""

    params: int
    flops: float


class Runner(ABC):
    """Trains runs of one kind.

    Attributes:
        has_source_tree: a run names the folder of the code that trains it, as `cwd`.
        sweeps_names: swept values are names that a run fills in (run.names.NAME), not keys of its configuration.
        can_prune: a trial can be stopped while it trains.
    """

    has_source_tree: ClassVar[bool] = False
    sweeps_names: ClassVar[bool] = False
    can_prune: ClassVar[bool] = True

    @abstractmethod
    def size(self, run: Mapping[str, Any]) -> Size:
        """
        Raises:
            ConfigError: the run breaks a rule.
        """

    @abstractmethod
    def decisive(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a run's configuration that its numbers hang on: what a trial's id is made of."""

    @abstractmethod
    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        """
        Args:
            names: last parts of the paths that are swept, and "seed" if there are several.

        Raises:
            ConfigError: the run would not see one of them, and train the same at all of its values.
        """

    @abstractmethod
    def source(self, run: Mapping[str, Any]) -> str:
        """What `fingerprint` is a hash of, as messages say it."""

    @abstractmethod
    def fingerprint(self, run: Mapping[str, Any]) -> str:
        """Hash of the data, or of the script; part of a run folder's identity.

        Raises:
            DataError: there is no such data, or too little.
        """

    @abstractmethod
    def check_there(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        """
        Raises:
            DataError: what the run folder's trials start is not where they look for it.
        """

    @abstractmethod
    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """`base` settings and `groups` of factors on them, for the target's export."""

    @abstractmethod
    def gpus(self) -> int:
        """Devices that it can use; 0 if it trains on the CPU."""

    @abstractmethod
    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        """Trials of this shape that one job carries, at most; how it splits them into stacks is the worker's to say.

        Args:
            gpu: whether jobs have one, which this machine need not.
        """

    @abstractmethod
    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        """Of a job's trials, how many are best trained as one stack: asked on the worker, as its first attempt starts.

        Args:
            stop: as in StackContext.

        Raises:
            Interrupted: `stop` gave a cause.
        """

    def shared(self, run: Mapping[str, Any]) -> Any:
        """What runs have in common that may train as one stack, as something to compare; None: all may."""
        return None

    @abstractmethod
    def too_many(self, trials: Sequence[Trial]) -> None:
        """Takes note that memory did not hold these as one stack, and that it was halved."""

    @abstractmethod
    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        """Training FLOPs a second of one worker at this shape, measured in a few steps.

        None if a step would take too long to be measured in passing.
        """

    @abstractmethod
    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        """Trains trials of one shape together, appending their curves; calls `finish` as each of them ends.

        Where `folder.behind_path` of a trial is there at a point of its curve, it ends there, in state PRUNED; a runner
        that does not look trains it to its end.

        A stack is trained as it was first put together, also where an earlier attempt finished some of its trials:
        those have outcomes already, and nothing of theirs is written again.

        Raises:
            Interrupted: `context.stop` gave a cause; what is needed to go on is saved.
            MemoryError: the device's memory does not hold the stack; a smaller one might do.
        """


RUNNERS: Registry[Runner] = Registry("runner", "hptransfer.worker.runners")
