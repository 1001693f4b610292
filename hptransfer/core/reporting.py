"""Metrics that a training script reports: `hptransfer.report(step=10, loss=2.5)`."""

from __future__ import annotations

import json
import os
from pathlib import Path

METRICS = "HPTRANSFER_METRICS"
GLOBAL_RANK = "RANK"
"""Rank among all processes, as torchrun sets it; it decides alone."""
LAUNCHER_RANKS = (
    *("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"),
    *("FLUX_TASK_RANK", "PALS_RANKID", "JSM_NAMESPACE_RANK"),
    *("LOCAL_RANK", "NODE_RANK"),
)
"""Ranks that other launchers set, among all processes or a part of them; for the first process all are 0."""
RANK_VARIABLES = (GLOBAL_RANK, *LAUNCHER_RANKS)


def report(step: int | None = None, *, diverged: bool = False, **values: float | None) -> None:
    """Append one point to the trial's curve.

    Outside of a trial the call has no effect, so the script also runs by hand. Of several processes only the first
    one reports. It is known by the variables that torchrun, srun, mpirun and other launchers set.

    Args:
        step: the training step; a step that is reported again replaces the earlier point. Without steps, points are
            numbered.
        diverged: training cannot continue; the trial ends here.
        values: metrics by name, such as the loss. A value is a number, or anything that `float` accepts (a tensor of
            one element).
    """
    path = os.environ.get(METRICS)
    if not path or not _is_first_process():
        return
    row: dict[str, float | bool | None] = {
        key: None if value is None else float(value) for key, value in values.items()
    }
    if step is not None:
        row["step"] = int(step)
    if diverged:
        row["diverged"] = True
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _is_first_process() -> bool:
    """Test if this is the first process of a launch.

    The first process of torchrun need not be on the first node of srun, so its variable is looked at before others.
    """
    if rank := os.environ.get(GLOBAL_RANK):
        return rank == "0"
    return all(os.environ.get(name) in (None, "", "0") for name in LAUNCHER_RANKS)
