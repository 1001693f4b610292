"""Analysis of a DataFrame, for notebooks; it writes no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from hptransfer.analysis.laws.fit import ESTIMATOR
from hptransfer.analysis.pipeline import AnalysisOptions, fit_and_predict
from hptransfer.analysis.report.analysis import Analysis
from hptransfer.analysis.tables.columns import TABLE_STEP, Columns
from hptransfer.analysis.tables.sources import canonical_states, check_targets
from hptransfer.analysis.tables.table_checks import check_table, unused_rows
from hptransfer.core.records import Objective


def analyze(
    frame: pd.DataFrame,
    *,
    scale: Sequence[str],
    tune: Sequence[str],
    targets: pd.DataFrame | Sequence[Mapping[str, float]],
    loss: str = "loss",
    goal: str | None = None,
    unit: str | None = None,
    estimator: str = ESTIMATOR,
    laws: Sequence[str] = (),
    prior: bool = True,
) -> Analysis:
    """Fit the law of the optima and predict for targets.

    Args:
        frame: one row per run; rows with the same scale and tuned values are repeats. Columns `seed`, `state`, `flops`
            and `steps` are used if present; other columns can only cause warnings.
        scale: columns that measure the size of a run, above 0. The unit is free, but the same in all rows and targets.
        tune: columns of the tuned hyperparameters, above 0.
        targets: scales to predict for, with at least the columns of `scale`.
        loss: column of the loss. It is missing, NaN or infinite where a run diverged.
        goal: "minimize" or "maximize"; None minimizes, and is refused for a column such as accuracy.
        unit: of the loss, such as "nats"; None for none.
        estimator: method that estimates the optima; `hptransfer list estimator` names them.
        laws: forms of law that are weighed against each other, empty for all default ones; `hptransfer list law` names
            them.
        prior: use priors from published studies, inferred from column names; if False, use uninformative priors.

    Raises:
        ConfigError: a column is missing, not numeric, or has values that are not above 0; `state` has an unknown word;
            a law or the estimator is unknown.
        FitError: no law can be fitted: too few scales or values, or a target that differs on an axis that was not
            swept.
    """
    objective = Objective.of(loss, goal, unit, "goal")
    columns = Columns(scales=tuple(scale), tuned=tuple(tune), loss=loss, objective=objective, step=TABLE_STEP)
    options = AnalysisOptions.of(estimator, ",".join(laws), "", prior=prior)
    target_table = check_targets(pd.DataFrame(targets).reset_index(drop=True), columns.scales, "targets")
    frame = canonical_states(frame, "the table")
    table = check_table(frame, columns, "the table")
    return fit_and_predict(table, columns, target_table, options, unused_rows(frame))
