"""Port through which trials are checked and trained.

The driver checks them; a worker trains them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hptransfer.core.loader import Members, members_of
from hptransfer.core.records import FAILED, Objective, Outcome, Trial
from hptransfer.core.registry import Registry
from hptransfer.core.run_folder import RunFolder

OnTrialEnd = Callable[[Trial, Outcome], None]
"""Function that a runner calls at the end of each trial, whatever its outcome."""


@dataclass(frozen=True)
class StackContext:
    """Job, attempt and interruption of the stack that a runner trains.

    Attributes:
        job: id of the stack's job.
        attempt: number of this submission of the job.
        stack: index of the stack in the job.
        checkpoint: file of this stack, in which the runner may store what it needs to resume. It may exist from an
            earlier attempt. The runner removes it once all trials have ended.
        checkpoint_s: seconds between two periodic checkpoints, because a node may vanish without a signal.
        stop: cheap check to be called between any two steps. It returns the cause to stop now (one of records.CAUSES)
            or None. For a cause, the runner saves its state and raises Interrupted(cause). The check itself raises
            Superseded if another attempt has taken over; nothing may be written after that.
    """

    job: str
    attempt: int
    stack: int
    checkpoint: Path
    checkpoint_s: float
    stop: Callable[[], str | None]


@dataclass(frozen=True)
class Size:
    """Size of one run: trainable parameters and training FLOPs."""

    params: int
    flops: float


@dataclass(frozen=True)
class RunSchema:
    """Schema of a runner's runs in a sweep file.

    Attributes:
        config: dataclass of a run.
        families: families of the members that a run holds, by field.
    """

    config: type[Any]
    families: Mapping[str, Registry[Any]]

    @property
    def members(self) -> Members:
        """Schemas of the members, by dotted key."""
        return members_of(self.families, "run")


class Runner(ABC):
    """Base class of runners: train runs of one kind.

    Attributes:
        has_source_tree: a run names the folder of the code that trains it, as `cwd`.
        sweeps_names: swept values are names that a run fills in (run.names.NAME), not keys of its configuration.
        can_prune: a trial can be stopped while it trains.
        secret_places: dotted keys of a run below which texts may refer to secrets, ${oc.env:NAME}. The runner reads
            them as it trains (`redaction.read_references`).
    """

    has_source_tree: ClassVar[bool] = False
    sweeps_names: ClassVar[bool] = False
    can_prune: ClassVar[bool] = True
    secret_places: ClassVar[Sequence[str]] = ()

    def schema(self) -> RunSchema | None:
        """Return the schema of a run in a sweep file.

        It gives the defaults, and the messages about keys and types. By default there is none: a run is then checked by
        `size` alone.
        """
        return None

    @abstractmethod
    def size(self, run: Mapping[str, Any]) -> Size:
        """Return the size of a run.

        Raises:
            ConfigError: the run breaks a rule.
        """

    def plan_imports(self, run: Mapping[str, Any]) -> bool:
        """Test if planning a run imports code that it names."""
        return False

    @abstractmethod
    def identity_settings(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that determine a run's numbers.

        A trial's id is a hash of them.
        """

    @abstractmethod
    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        """Check that the swept settings affect the run.

        Args:
            names: last parts of the paths that are swept, and "seed" if there are several seeds.

        Raises:
            ConfigError: the run does not use one of them, so it would train the same at all of its values.
        """

    def needs_smoke_trial(self, run: Mapping[str, Any]) -> bool:
        """Test if the first trial of a sweep is to run alone.

        By default it is not. A job of several trials would be split otherwise than without it.
        """
        return False

    def command_line(self, trial: Trial, folder: RunFolder) -> str | None:
        """Return the command that trains a trial, for a shell.

        By default no command does, and it is None.
        """
        return None

    def may_hang(self, run: Mapping[str, Any]) -> bool:
        """Test if a trial that hangs is not ended.

        By default training ends by itself.
        """
        return False

    def timeout_factor(self, run: Mapping[str, Any]) -> float | None:
        """Return the time limit as a multiple of other trials' time.

        By default it is None, for no limit.
        """
        return None

    def shortened(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return a run with the few steps of a smoke trial.

        By default it is the run as it is.
        """
        return dict(run)

    @abstractmethod
    def fingerprint_source(self, run: Mapping[str, Any]) -> str:
        """Describe the data that `fingerprint` hashes, for messages."""

    @abstractmethod
    def fingerprint(self, run: Mapping[str, Any]) -> str:
        """Return a hash of the data or the script.

        It is part of a run folder's identity.

        Raises:
            DataError: the data does not exist, or is too small.
        """

    def identity_files(self, run: Mapping[str, Any]) -> Mapping[str, Path]:
        """Return the files that `fingerprint` hashes, by their arguments.

        By default there are none.
        """
        return {}

    def earlier_fingerprint(self, run: Mapping[str, Any]) -> str | None:
        """Return the fingerprint as version 0.2 computed it, if it differs."""
        return None

    @abstractmethod
    def check_files(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        """Check that the program exists where the run folder's trials start it.

        Raises:
            DataError: the program does not exist there.
        """

    @abstractmethod
    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `export` resolves with predicted values.

        Returns:
            `decay`, the kind of weight decay; `groups`, a `GroupRule` of each as plain values; `branch_multiplier`, the
            factor of residual branches. They are None and empty for a run without them.
        """

    @abstractmethod
    def gpus(self) -> int:
        """Return the number of usable devices; 0 on the CPU."""

    @abstractmethod
    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        """Return the largest number of trials of this shape in one job.

        The worker splits them into stacks.

        Args:
            gpu: true if jobs have a GPU, even if this machine has none.
        """

    @abstractmethod
    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        """Return the number of trials to train as one stack.

        It is called on the worker, at the start of the job's first attempt.

        Args:
            stop: as in StackContext.

        Raises:
            Interrupted: `stop` returned a cause.
        """

    def objective(self, run: Mapping[str, Any]) -> Objective:
        """Return the metric that ranks trials.

        By default it is a loss without a unit.
        """
        return Objective()

    def missing_state(self, run: Mapping[str, Any]) -> str:
        """Return the state of a trial that ended without its result."""
        return FAILED

    def knows_last_step(self, run: Mapping[str, Any]) -> bool:
        """Test if a trial that is done has reached its last step.

        Otherwise its steps are compared with those of other trials of its scale.
        """
        return True

    def stack_key(self, run: Mapping[str, Any]) -> Any:
        """Return a key; runs with equal keys may share a stack.

        By default all keys are equal.
        """
        return None

    @abstractmethod
    def note_out_of_memory(self, trials: Sequence[Trial]) -> None:
        """Record that these trials did not fit in memory as one stack.

        The stack was split.
        """

    @abstractmethod
    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        """Measure a worker's training FLOPs per second in a few steps.

        It is None if a step would take too long to be measured while planning.
        """

    @abstractmethod
    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        """Train trials of one shape together and append to their curves.

        Call `finish` at the end of each trial.

        If `folder.pruned_path` of a trial exists at a point of its curve, the trial ends there in state PRUNED. A
        runner that does not check this trains it to its end.

        A stack is trained as it was first composed, even if an earlier attempt finished some of its trials. These have
        outcomes already, and nothing of them is written again.

        Raises:
            Interrupted: `context.stop` returned a cause; the state needed to resume is saved.
            MemoryError: the stack does not fit in the device's memory; a smaller one might.
        """


RUNNERS: Registry[Runner] = Registry("runner", "hptransfer.worker.runners")
