"""Further trials of a run: those that its analysis ranks as worth most for the target's interval."""

from __future__ import annotations

from hptransfer.analysis.pipeline import analyze_run
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Scale
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import Point
from hptransfer.planning.trial_set import TrialSet


def next_trial_set(plan: Plan, count: int) -> TrialSet:
    """The first trials of the ranking, at scales that can be trained.

    Args:
        count: settings to train; every one gets the sweep's seeds. A scale that is new needs several at once, and is
            taken whole or not at all.

    Raises:
        ConfigError: the count is below 1, or nothing is left that would narrow the interval.
        FitError: the run cannot be analyzed yet.
    """
    if count < 1:
        raise ConfigError(f"--next must be at least 1, got {count}")
    ranked = analyze_run(plan.config.folder).next_runs
    settings: dict[Scale, list[Point]] = {}
    taken = 0
    for one in ranked:
        try:
            scale = plan.scale({key: _whole(value) for key, value in one.axes.items()})
        except ConfigError:
            continue  # such as a width that the heads do not divide
        if taken and taken + len(one.settings) > count:
            continue
        values = [tuple(canonical(2.0**x) for x in setting) for setting in one.settings]
        settings.setdefault(scale, []).extend(values)
        taken += len(values)
        if taken >= count:
            break
    if not settings:
        place = plan.config.folder.path
        raise ConfigError(f"{place}: no further trial would narrow the target's interval; see its next.csv")
    return TrialSet.of(plan, settings)


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value
