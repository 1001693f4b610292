"""Session of a driver: the lock, checks and tracker of a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console

from hptransfer.config import sweep as sweep_config
from hptransfer.core.errors import RunFolderError, printable
from hptransfer.core.io import write_text
from hptransfer.core.locks import locked_by
from hptransfer.core.permissions import is_run_folder, restricted_umask
from hptransfer.core.run_folder import RunFolder, disk_errors
from hptransfer.driver.driver import Driver, DriverPorts, already_driven, driving
from hptransfer.driver.summary import DriverSummary
from hptransfer.monitor.tables import Display
from hptransfer.planning.plan import Plan
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.announcer import Announcer, announcing
from hptransfer.session.identity_check import refuse_other_identity, settle_identity, write_target
from hptransfer.session.snapshot import take_snapshot
from hptransfer.trackers import BackgroundTracker, TrackedSweep

INTERRUPTED_CLOSE_S = 5.0


@dataclass(frozen=True)
class Session:
    """Open run folder, with its tracker."""

    plan: Plan
    folder: RunFolder
    tracker: BackgroundTracker
    console: Console
    announcer: Announcer

    def note(self, text: str) -> None:
        """Print a line for the user."""
        _note(self.console, text)

    def train(self, trial_set: TrialSet) -> DriverSummary:
        """Train a set of trials and show progress."""
        for note in filter(None, (trial_set.halving.note(), self.plan.config.launcher.note())):
            self.note(note)
        gpus = self.plan.runner.gpus()
        launcher = self.plan.config.launcher.open(self.folder.path, gpus)
        try:
            with Display(self.console) as display, deferred_signals() as interrupted:
                ports = DriverPorts(
                    launcher=launcher,
                    tracker=self.tracker,
                    show=display.show,
                    interrupted=interrupted,
                    blocked=self.announcer.blocked,
                    note=lambda text: _note(self.console, text),
                )
                driver = Driver(plan=self.plan, trial_set=trial_set, folder=self.folder, ports=ports)
                summary = driver.run()
                self.announcer.progress = summary.progress
                display.show(summary.progress, last=True)
        finally:
            launcher.close()
        return summary


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Defer Ctrl-C and SIGTERM until the driver's next tick.

    An exception in the middle of a library's write would surface as a different one. The second signal interrupts at
    once.

    Yields:
        A function that returns True after a signal.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def session(plan: Plan, console: Console, *, accept_changed: bool = False) -> Iterator[Session]:
    """Hold the run folder of a plan while the block drives it.

    Args:
        accept_changed: go on although the script has changed since the trials were trained.

    Raises:
        ConfigError: a hook refers to a variable that is not set.
        RunFolderError: the folder belongs to another sweep, is not a run folder, or cannot be written.
        StoppedError: another driver holds it.
    """
    folder = plan.config.folder
    plan.config.hooks.with_secrets("hooks")
    _refuse_other_folder(folder)
    folder.create(plan.config.share)
    with restricted_umask(folder.path), driving(folder):
        settle_identity(folder, plan, accept_changed=accept_changed)
        with announcing(plan.config.hooks, folder, lambda text: _note(console, text)) as announcer:
            with disk_errors(folder):
                _write_description(folder, plan)
            with _tracking(plan, folder, console) as tracker:
                yield Session(plan, folder, tracker, console, announcer)


@contextmanager
def _tracking(plan: Plan, folder: RunFolder, console: Console) -> Iterator[BackgroundTracker]:
    """Open the run's tracker, and flush it when the block ends."""
    settings = {"parameterization": plan.config.run.get("parameterization"), "data": plan.fingerprint}
    settings |= {"goal": plan.objective.goal}
    sweep = TrackedSweep(name=plan.config.name, settings=settings, scales=plan.scales, tuned=plan.tuned)
    tracker = BackgroundTracker(lambda: plan.config.tracker.open(folder, sweep), folder)
    if note := plan.config.tracker.note():
        _note(console, note)
    close_wait_s: float | None = None
    try:
        yield tracker
    except KeyboardInterrupt:
        close_wait_s = INTERRUPTED_CLOSE_S  # the next run writes the rest
        raise
    finally:
        tracker.close(close_wait_s)
        if tracker.missing:
            _note(
                console,
                f"not in the tracker yet: {tracker.missing}; no result is lost: {folder.path} has them all, and the "
                "same command tries again",
            )


def _note(console: Console, text: str) -> None:
    console.print(printable(f"note: {text}"), soft_wrap=True, highlight=False, markup=False)


def check_folder(plan: Plan, *, accept_changed: bool = False) -> None:
    """Check that a plan can be driven in its folder.

    A change of the script that is accepted is recorded at once. The driver that follows in another process then takes
    no later change.

    Raises:
        ConfigError: a hook refers to a variable that is not set.
        RunFolderError: the folder belongs to another sweep, or is not a run folder.
        StoppedError: another driver holds it.
    """
    folder = plan.config.folder
    plan.config.hooks.with_secrets("hooks")
    _refuse_other_folder(folder)
    if holder := locked_by(folder.driver_lock):
        raise already_driven(folder, holder)
    refuse_other_identity(folder, plan, accept_changed=accept_changed)
    if accept_changed and folder.target.exists():
        with restricted_umask(folder.path), driving(folder):
            settle_identity(folder, plan, accept_changed=True)


def _refuse_other_folder(folder: RunFolder) -> None:
    usable = is_run_folder(folder.path) or not folder.path.exists()
    if not usable and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise RunFolderError(f"{folder.path} exists and is not a run folder; choose another name=NAME or runs=DIR")


def _write_description(folder: RunFolder, plan: Plan) -> None:
    """Write the resolved sweep, its target and a snapshot."""
    take_snapshot(folder, plan.config)
    write_text(folder.sweep, sweep_config.dump_sweep(plan.config))
    write_target(folder, plan)
