"""Trials that exited with code 0 before the step that others of their scale reached.

A trainer that breaks off at a NaN may exit with code 0, and its last number then looks like a result. Where the last
step of a run is not declared, the trials of a scale show it: several of them end at the same step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from hptransfer.core.records import DONE, Outcome, Trial

# Share of the step that others reached, below which a trial ended early: the last reports of complete trials differ by
# an interval of reports.
COMPLETE_SHARE = 0.9
# Number of trials that ended at one step, from which they show where a complete trial ends.
FEWEST_COMPLETE = 2
# Words in the names of tuned hyperparameters that change the number of steps of a trial.
STEP_WORDS = ("batch", "step", "epoch", "accum", "tokens")


class EarlyEnds:
    """Comparison of the last steps of trials that are done.

    Compared are trials of one scale. Where a batch size or the like is tuned, they also share its value.
    """

    def __init__(self) -> None:
        self._steps: dict[Hashable, dict[str, int]] = {}

    def add(self, trial: Trial, outcome: Outcome) -> dict[str, str]:
        """Add a trial that ended.

        Returns:
            The trials that ended early by all that is known now, with the reason; they are compared no more.
        """
        if outcome.state != DONE or outcome.imported or outcome.steps < 1:
            return {}
        steps = self._steps.setdefault(_group(trial), {})
        steps[trial.id] = outcome.steps
        reached = max((step for step, count in Counter(steps.values()).items() if count >= FEWEST_COMPLETE), default=0)
        early = {trial_id: step for trial_id, step in steps.items() if step < COMPLETE_SHARE * reached}
        for trial_id in early:
            del steps[trial_id]
        return {
            trial_id: f"it exited with code 0 at step {step}, where others of its scale reached step {reached}"
            for trial_id, step in early.items()
        }


def _group(trial: Trial) -> Hashable:
    """Return the scale, with the tuned values that change the number of steps."""
    values = [(name, value) for name, value in trial.tuned.items() if any(word in name.lower() for word in STEP_WORDS)]
    return trial.scale, tuple(values)
