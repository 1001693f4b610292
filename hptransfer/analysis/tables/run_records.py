"""Records of a run folder as a table, a row per trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hptransfer.analysis.tables.columns import SEED
from hptransfer.core.records import SWEEP
from hptransfer.core.run_folder import RunFolder

UNFINISHED = "waiting"
"""State of a record without an outcome."""


def run_records(folder: RunFolder, target: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of the sweep's trials, finished or not.

    Verification trials are left out.

    Args:
        target: content of target.json, which names the scale axes and the tuned hyperparameters.
    """
    rows = []
    for trial in folder.read_trials():
        if trial.purpose != SWEEP:
            continue
        outcome = folder.read_outcome(trial.id)
        rows.append(
            {
                "trial": trial.id,
                **{axis: trial.scale.axes[axis] for axis in target["scales"]},
                **{key: trial.tuned[key] for key in target["tuned"]},
                SEED: trial.seed,
                "state": outcome.label if outcome else UNFINISHED,
                "loss": outcome.loss if outcome else None,
                "loss_se": outcome.loss_se if outcome else None,
                "params": trial.params,
                "flops": trial.flops,
                "steps": outcome.steps if outcome else 0,
                "seconds": outcome.seconds if outcome else 0.0,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.sort_values(["flops", *target["scales"], *target["tuned"], SEED], ignore_index=True) if rows else frame
