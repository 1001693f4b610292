"""Callback for Hugging Face's Trainer: reports, stops and resumes.

    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[TrialCallback()])
    trainer.train(resume_from_checkpoint=last_checkpoint(arguments.output_dir))

Outside of a trial neither has an effect.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
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
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise missing_package("transformers") from None

KEPT_CHECKPOINTS = 2
CHECKPOINT_PATTERN = "checkpoint-*"


class TrialCallback(TrainerCallback):  # type: ignore[misc]  # it may be missing where types are checked
    """Connection of a Trainer to its trial.

    Every entry of the Trainer's log is a point of the trial's curve, at its global step: `loss`, `eval_loss` and all
    other numbers. Losses that are not finite are reported as they are. On SIGTERM the Trainer saves after the current
    step and ends with exit code 143. Checkpoints in the trial's folder are removed once training is complete.
    """

    def __init__(self, checkpoint_s: float = CHECKPOINT_S) -> None:
        """Create the callback.

        Args:
            checkpoint_s: seconds between two checkpoints, besides those that the arguments ask for.
        """
        self._stop, self._timer = StopRequest(), CheckpointTimer(checkpoint_s)
        self._is_stopping = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen for SIGTERM, and keep NaN in the logged losses."""
        if trial_folder() is None:
            return
        args.logging_nan_inf_filter = False  # it would hide that training diverged
        args.save_total_limit = args.save_total_limit or KEPT_CHECKPOINTS
        self._stop.listen()
        self._timer.restart()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        """Report the numbers of a log entry."""
        if "train_runtime" in logs or not state.is_world_process_zero:  # a summary of the whole training
            return
        numbers: dict[str, Any] = {
            key: value for key, value in logs.items() if isinstance(value, int | float) and not isinstance(value, bool)
        }
        report(step=state.global_step, **numbers)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint where one is due or training must stop."""
        self._is_stopping, is_due = self._in_any_process(args, self._stop.received, self._timer.is_due)
        control.should_save = control.should_save or self._is_stopping or is_due

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the process if the checkpoint was the last one."""
        self._timer.restart()
        if self._is_stopping:
            sys.exit(STOPPED_EXIT_CODE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the checkpoints from the trial's folder."""
        self._stop.ignore()
        folder = trial_folder()
        output = Path(args.output_dir).resolve()
        if folder is not None and state.is_world_process_zero and output.is_relative_to(folder.resolve()):
            for path in output.glob(CHECKPOINT_PATTERN):
                shutil.rmtree(path)

    def _in_any_process(self, args: Any, *flags: bool) -> list[bool]:
        """Return for each flag if it is true in any process."""
        if args.world_size == 1 or trial_folder() is None:
            return list(flags)
        import torch

        either = torch.tensor(flags, dtype=torch.int32, device=args.device)
        torch.distributed.all_reduce(either, op=torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in either.tolist()]


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest complete checkpoint of an earlier attempt.

    Returns:
        Its folder, or None if there is none and outside of a trial. A checkpoint that was cut off is passed over.
    """
    if trial_folder() is None:
        return None
    steps = {path: path.name.rpartition("-")[2] for path in Path(output_dir).glob(CHECKPOINT_PATTERN)}
    complete = [path for path, step in steps.items() if step.isdecimal() and _is_complete(path)]
    return str(max(complete, key=lambda path: int(steps[path]))) if complete else None


def _is_complete(checkpoint: Path) -> bool:
    """Test if the Trainer's state is there, which is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
