"""Initial view of MLflow's page: filter, order and columns of the runs.

A view is a tag of the experiment in the format of MLflow's own "share" button: JSON, deflated, in base 64. A version of
MLflow that does not know the tag shows its default view.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

VIEW_TAG = "mlflow.sharedViewState."
TRIALS_VIEW = "trials"


def trials_view(axes: Sequence[str], tuned: Sequence[str], *, ascending: bool = True) -> str:
    """Return the view of all trials, with varied settings as columns.

    The best trial comes first.

    Args:
        ascending: False for a metric to be maximized.
    """
    params = [f"params.`{key}`" for key in (*axes, *tuned, "seed")]
    state: dict[str, Any] = {
        "searchFilter": "tags.purpose = 'sweep'",  # the sweep's own run would collapse its trials
        "orderByKey": "metrics.`loss`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "selectedColumns": ["metrics.`loss`", *params, "tags.`state`", "tags.`cause`"],
        "runsHiddenMode": "FIRST_20_RUNS",
        "runListHidden": False,
        "chartsSearchFilter": "loss",
    }
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()}"


def view_link(experiment: str, *, charts: bool) -> str:
    """Return the link to the view, relative to the page."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={TRIALS_VIEW}&workflowType=machine_learning{mode}"
