"""Views that MLflow's page opens with: which runs, sorted how, by which columns.

A view is a tag of the experiment, in the form in which MLflow's own "share" button stores one: JSON, deflated, in
base 64. A page that knows no such tag shows its own default.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
TRIALS = "trials"


def trials_view(axes: Sequence[str], tuned: Sequence[str]) -> str:
    """All trials of the sweep, the best first, as a table of what they differ in."""
    params = [f"params.`{key}`" for key in (*axes, *tuned, "seed")]
    state: dict[str, Any] = {
        "searchFilter": "tags.purpose = 'sweep'",  # the sweep's own run would hide its trials behind a plus
        "orderByKey": "metrics.`loss`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "selectedColumns": ["metrics.`loss`", *params, "tags.`state`", "tags.`cause`"],
        "runsHiddenMode": "FIRST_20_RUNS",
        "runListHidden": False,
        "chartsSearchFilter": "loss",
    }
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()}"


def link(experiment: str, *, charts: bool) -> str:
    """Where the view is, within the page."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={TRIALS}&workflowType=machine_learning{mode}"
