"""List of a run's trials: id, scale, values, state and loss."""

from __future__ import annotations

from collections.abc import Iterator

from hptransfer.core.records import exact, format_distinct
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import TRIAL_RUNNING, TRIAL_WAITING
from hptransfer.monitor.status import read_trials_with_outcomes, running_trials

DASH = "-"


def trial_lines(folder: RunFolder) -> Iterator[str]:
    """Yield a header and a line for each trial, in aligned columns.

    The cheapest scale is first and verification trials are last. No value holds a blank, for other programs.

    Raises:
        RunFolderError: a file is damaged.
    """
    rows, _ = read_trials_with_outcomes(folder)
    if not rows:
        yield f"{folder.path} has no trials yet; start it with `hptransfer sweep`"
        return
    rows.sort(key=lambda row: (row[0].purpose, row[0].flops, row[0].scale.key, *row[0].tuned.values(), row[0].seed))
    running = running_trials(folder, rows)
    shown = format_distinct(value for trial, _ in rows for value in trial.tuned.values())
    first = rows[0][0]
    table = [["trial", *first.scale.axes, *first.tuned, "seed", "purpose", "state", "loss"]]
    for trial, outcome in rows:
        table.append(
            [
                trial.id,
                *map(exact, trial.scale.axes.values()),
                *(shown[value] for value in trial.tuned.values()),
                str(trial.seed),
                trial.purpose,
                outcome.label if outcome else TRIAL_RUNNING if trial.id in running else TRIAL_WAITING,
                DASH if outcome is None or outcome.loss is None else f"{outcome.loss:.6g}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
