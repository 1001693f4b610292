"""Trials that run much longer than finished trials of their scale.

They may hang. They are named once, and end if `run.timeout_factor` asks for it: the driver, which knows the other
trials, writes the limit into the trial's folder, and the worker enforces it by its own clock.
"""

from __future__ import annotations

from collections.abc import Collection

from hptransfer.core.io import write_json
from hptransfer.core.records import Trial, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.trial_index import TrialIndex

WARNING_FACTOR = 5.0
"""Multiple of the longest finished trial's time from which a trial without a limit is warned of."""
LEAST_LIMIT_S = 30.0
"""Shortest limit: the times of trials of a few seconds differ by start-up and load."""


class LongTrials:
    """Watch over the time that running trials take.

    Args:
        factor: `run.timeout_factor`; None to warn alone.
    """

    def __init__(self, folder: RunFolder, index: TrialIndex, factor: float | None) -> None:
        self._folder, self._index, self._factor = folder, index, factor
        self._running_since: dict[str, float] = {}
        self._noted: set[str] = set()

    def look(self, running: Collection[str], now: float) -> list[str]:
        """Return a line for each trial that has become too long.

        Args:
            running: ids of the trials that are being trained.
            now: seconds on the monotonic clock.
        """
        self._running_since = {trial: self._running_since.get(trial, now) for trial in running}
        lines = []
        for trial_id, since in self._running_since.items():
            trial = self._index.trials[trial_id]
            longest_s = self._index.at(trial.scale).longest_s
            limit_s = max((self._factor or WARNING_FACTOR) * longest_s, LEAST_LIMIT_S)
            if longest_s and now - since > limit_s and trial_id not in self._noted:
                self._noted.add(trial_id)
                lines.append(self._act(trial, longest_s, limit_s))
        return lines

    def _act(self, trial: Trial, longest_s: float, limit_s: float) -> str:
        """Write the limit if one is asked for, and describe the trial."""
        text = (
            f"{trial.id} {trial.name} has run for {limit_s:.0f} s, and no finished trial of its scale took longer than "
            f"{short(longest_s)} s"
        )
        if self._factor is None:
            return f"{text}; if it hangs, run.timeout_factor={short(WARNING_FACTOR)} or run.timeout_s ends it"
        write_json(self._folder.limit_path(trial.id), {"seconds": limit_s})
        return f"{text}; it ends, by run.timeout_factor"
