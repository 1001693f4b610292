"""Further trials of a run: those that narrow the target's interval most."""

from __future__ import annotations

from hptransfer.analysis.pipeline import analyze_run
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Scale
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import Point
from hptransfer.planning.trial_set import TrialSet


def next_trial_set(plan: Plan, count: int) -> TrialSet:
    """Return the first trials of the ranking at trainable scales.

    Args:
        count: points to train, at least 1; each gets the sweep's seeds. A new scale needs several points at once, and
            is trained whole or not at all.

    Raises:
        ConfigError: nothing is left that would narrow the interval.
        FitError: the run cannot be analyzed yet.
    """
    ranked = analyze_run(plan.config.folder).next_runs
    points: dict[Scale, list[Point]] = {}
    taken = 0
    for run in ranked:
        try:
            scale = plan.scale({key: _whole(value) for key, value in run.axes.items()})
        except ConfigError:
            continue  # such as a width that is not a multiple of the heads
        if taken and taken + len(run.settings) > count:
            continue
        values = [tuple(canonical(2.0**x) for x in point) for point in run.settings]
        points.setdefault(scale, []).extend(values)
        taken += len(values)
        if taken >= count:
            break
    if not points:
        place = plan.config.folder.path
        raise ConfigError(f"{place}: no further trial would narrow the target's interval; see its next.csv")
    return TrialSet.of(plan, points)


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
