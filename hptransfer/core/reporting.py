"""What a training script tells of itself: `hptransfer.report(step=10, loss=2.5)`. The standard library alone."""

from __future__ import annotations

import json
import os
import time

METRICS = "HPTRANSFER_METRICS"


def report(step: int | None = None, *, diverged: bool = False, **values: float) -> None:
    """Writes one point of the trial's curve.

    Does nothing outside of a trial, so the script runs by hand as it is, and nothing in any but the first process of
    several (RANK, which torchrun sets).

    Args:
        step: of the training; a step that is reported again takes the place of what was said of it. Without it points
            are numbered.
        diverged: training cannot go on; the trial ends here.
        values: numbers by name, or what `float` takes, such as a tensor of one element: loss, and what else there is.
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
