"""Metrics that a training script reports: `hptransfer.report(step=10, loss=2.5)`."""

from __future__ import annotations

import json
import os
import time

METRICS = "HPTRANSFER_METRICS"


def report(step: int | None = None, *, diverged: bool = False, **values: float) -> None:
    """Append one point to the trial's curve.

    Outside of a trial the call has no effect, so the script also runs by hand. Of several processes only the first
    one reports (RANK, which torchrun sets).

    Args:
        step: the training step; a step that is reported again replaces the earlier point. Without steps, points are
            numbered.
        diverged: training cannot continue; the trial ends here.
        values: metrics by name, such as the loss. A value is a number, or anything that `float` accepts (a tensor of
            one element).
    """
    path = os.environ.get(METRICS)
    if not path or os.environ.get("RANK", "0") != "0":
        return
    row: dict[str, float | bool] = {key: float(value) for key, value in values.items()}
    if step is not None:
        row["step"] = int(step)
    if diverged:
        row["diverged"] = True
    line = json.dumps({"time": time.time(), **row}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
