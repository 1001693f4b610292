"""Callback for Lightning: reports, stops and resumes.

    trainer = lightning.Trainer(max_steps=1000, callbacks=[TrialCallback()])
    trainer.fit(model, ckpt_path=last_checkpoint())

Outside of a trial neither has an effect.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from hptransfer.core.reporting import report
from hptransfer.integrations._trials import (
    CHECKPOINT_S,
    STOPPED_EXIT_CODE,
    CheckpointTimer,
    StopRequest,
    missing_package,
    trial_folder,
)

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    if error.name != "lightning":
        raise
    raise missing_package("lightning") from None

CHECKPOINTS = "lightning"
"""Folder of the checkpoints, below the trial's own."""


class TrialCallback(Callback):  # type: ignore[misc]  # it may be missing where types are checked
    """Connection of a Trainer to its trial.

    Every number that the module logs is a point of the trial's curve, at its global step: those of training every
    `log_every_n_steps` steps, those of an epoch or of validation at its end. On SIGTERM the callback saves a
    checkpoint after the current step, and the process ends with exit code 143. The checkpoint is removed once training
    is complete.
    """

    def __init__(self, checkpoint_s: float = CHECKPOINT_S) -> None:
        """Create the callback.

        Args:
            checkpoint_s: seconds between two checkpoints.
        """
        self._stop, self._timer = StopRequest(), CheckpointTimer(checkpoint_s)
        self._reported: dict[str, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Listen for SIGTERM."""
        self._step = trainer.global_step
        self._stop.listen()  # Lightning's own handler communicates between processes at an arbitrary moment
        self._timer.restart()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report the step, and save a checkpoint where one is due."""
        if trainer.global_step == self._step:  # gradients are still accumulated
            return
        self._step = trainer.global_step
        if self._step % trainer.log_every_n_steps == 0:
            self._report(trainer)
        if trial_folder() is None:
            return
        is_stopping, is_due = (
            trainer.strategy.reduce_boolean_decision(flag, all=False)
            for flag in (self._stop.received, self._timer.is_due)
        )
        if is_stopping or is_due:
            _save(trainer)
            self._timer.restart()
        if is_stopping:
            sys.exit(STOPPED_EXIT_CODE)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the metrics of the epoch."""
        self._report(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the metrics of the validation."""
        if not trainer.sanity_checking:
            self._report(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the checkpoint."""
        self._stop.ignore()
        folder = _checkpoint_folder()
        if folder is not None and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore the handler of SIGTERM."""
        self._stop.ignore()

    def _report(self, trainer: Any) -> None:
        """Report the metrics that were measured since the last report.

        Lightning keeps the last value of each metric. One that is still the same object was not measured again.
        """
        metrics = dict(trainer.callback_metrics)
        new: dict[str, Any] = {
            key: float(value) for key, value in metrics.items() if value is not self._reported.get(key)
        }
        self._reported = metrics
        if new and trainer.is_global_zero:
            report(step=trainer.global_step, **new)


def last_checkpoint() -> str | None:
    """Return the checkpoint of an earlier attempt.

    Returns:
        Its path, or None if there is none and outside of a trial.
    """
    folder = _checkpoint_folder()
    paths = [] if folder is None else list(folder.glob("*.ckpt"))
    return str(max(paths, key=lambda path: int(path.stem))) if paths else None


def _checkpoint_folder() -> Path | None:
    folder = trial_folder()
    return None if folder is None else folder / CHECKPOINTS


def _save(trainer: Any) -> None:
    """Save a checkpoint, which replaces the earlier ones once complete."""
    folder = _checkpoint_folder()
    assert folder is not None
    path = folder / f"{trainer.global_step}.ckpt"
    unfinished = path.with_suffix(".new")
    trainer.save_checkpoint(unfinished)
    if trainer.is_global_zero:
        unfinished.replace(path)
        for earlier in set(folder.iterdir()) - {path}:
            shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
