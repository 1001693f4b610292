"""The analysis of a DataFrame: what a notebook calls. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from hptransfer.analysis.laws.fit import ESTIMATOR
from hptransfer.analysis.pipeline import AnalysisOptions, fit_and_predict
from hptransfer.analysis.report.analysis import Analysis
from hptransfer.analysis.tables.checks import check_table, not_counted
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.sources import canonical_states, check_targets


def analyze(
    frame: pd.DataFrame,
    *,
    scale: Sequence[str],
    tune: Sequence[str],
    targets: pd.DataFrame | Sequence[Mapping[str, float]],
    loss: str = "loss",
    estimator: str = ESTIMATOR,
    laws: Sequence[str] = (),
    prior: bool = True,
) -> Analysis:
    """Where the optimum of every scale is, by which law it moves, and what to train each target with.

    Args:
        frame: one row a run; rows that repeat a scale and a value are repeats. Columns `seed`, `state`, `flops` and
            `steps` are used if they are there, others than those named are only warned about.
        scale: columns that say how large a run is, above 0, in any unit, the same in all rows and targets.
        tune: columns that were tuned, above 0.
        targets: the scales to predict for; at least the columns of `scale`.
        loss: column of the loss, nats, above 0; missing, NaN or infinite where a run diverged.
        estimator: how optima are found; `hptransfer list estimator` names them.
        laws: forms of law that are weighed against each other, empty for all default ones; `hptransfer list law` names
            them.
        prior: whether a tuned column's name brings in what published studies found of such (analysis.known).

    Raises:
        ConfigError: a column is missing, not numeric, or has values that are not above 0; `state` has an unknown word;
            there is no such law.
        FitError: no law can be fitted: too few scales or values, or a target on an axis that was not swept.
    """
    columns = Columns(scales=tuple(scale), tuned=tuple(tune), loss=loss)
    options = AnalysisOptions.of(estimator, ",".join(laws), "", prior=prior)
    wanted = check_targets(pd.DataFrame(targets).reset_index(drop=True), columns.scales, "targets")
    frame = canonical_states(frame, "the table")
    table = check_table(frame, columns, "the table")
    return fit_and_predict(table, columns, wanted, options, not_counted(frame))
