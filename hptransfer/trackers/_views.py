"""Initial view of MLflow's page: filter, columns and charts of the runs.

A view is a tag of the experiment in the format of MLflow's own "share" button: JSON, deflated, in base 64. A version of
MLflow that does not know the tag shows its default view.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from hptransfer.core.records import MAXIMIZE, Scale
from hptransfer.trackers._base import TrackedSweep

VIEW_TAG = "mlflow.sharedViewState."
TRIALS_VIEW = "trials"
COLOR_TAG = "mlflow.runColor"
SETTINGS = "settings/"
"""Prefix of metrics that are settings: MLflow's parameters are text, which it cannot compare or plot."""
COLORS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#ee7733", "#009988", "#882255", "#555555")
"""Colours of the scales in turn; most are Paul Tol's, which people with colour blindness can tell apart."""
# Numbers of a run that the table shows and that no chart explains.
UNCHARTED = ("diverged", "loss_se", "seconds", f"{SETTINGS}parameters", f"{SETTINGS}flops")
MOST_POINTS = 1000


def scale_colors(scales: Sequence[Scale]) -> dict[str, str]:
    """Return the colour of each scale's runs, by the scale's key."""
    return {scale.key: COLORS[k % len(COLORS)] for k, scale in enumerate(scales)}


def log2_setting(name: str) -> str:
    """Return the metric that holds the logarithm of a tuned value."""
    return f"{SETTINGS}log2_{name}"


def trials_view(sweep: TrackedSweep) -> str:
    """Return the view of all trials, with varied settings as columns.

    The best trial comes first. Its charts are the final loss against each tuned value, the parallel coordinates of
    the settings that differ, and the loss curves.
    """
    params = [f"params.`{key}`" for key in (*sweep.axes, *sweep.tuned, "seed")]
    charts = [*_loss_charts(sweep), *_curve_charts(), *_hidden_charts(sweep)]
    state: dict[str, Any] = {
        "searchFilter": "tags.purpose = 'sweep'",  # the sweep's own run would collapse its trials
        "orderByKey": "metrics.`loss`",
        "orderByAsc": sweep.settings.get("goal") != MAXIMIZE,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "selectedColumns": ["metrics.`loss`", *params, "tags.`state`", "tags.`cause`", "attributes.`Duration`"],
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": False,
        "chartsSearchFilter": "",
        "compareRunCharts": charts,
        "compareRunSections": [_section("Final loss"), _section("Curves")],
        "isAccordionReordered": True,
    }
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()}"


def _loss_charts(sweep: TrackedSweep) -> Iterator[dict[str, Any]]:
    for name in sweep.tuned:
        yield _chart("SCATTER", "Final loss", f"final loss by {name}") | {
            "xaxis": {"key": log2_setting(name), "type": "METRIC"},
            "yaxis": {"key": "loss", "type": "METRIC"},
            "runsCountToCompare": MOST_POINTS,
        }
    settings = [*(f"{SETTINGS}{axis}" for axis in sweep.varying), *map(log2_setting, sweep.tuned)]
    yield _chart("PARALLEL", "Final loss", "parallel coordinates") | {
        "selectedParams": [],
        "selectedMetrics": [*settings, "loss"],
        "showAllRuns": True,
        "runsCountToCompare": MOST_POINTS,
    }


def _curve_charts() -> Iterator[dict[str, Any]]:
    yield _chart("LINE", "Curves", "training loss") | {
        "metricKey": "train_loss",
        "selectedMetricKeys": ["train_loss"],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "log",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "range": {},
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "runsCountToCompare": 20,
    }


def _hidden_charts(sweep: TrackedSweep) -> Iterator[dict[str, Any]]:
    """Yield the bar charts that MLflow would add, marked as deleted."""
    settings = [*(f"{SETTINGS}{key}" for key in (*sweep.axes, *sweep.tuned)), *map(log2_setting, sweep.tuned)]
    for name in ("loss", *UNCHARTED, *settings):
        yield _chart("BAR", "Curves", name) | {"metricKey": name, "isGenerated": True, "deleted": True}


def _section(name: str) -> dict[str, Any]:
    size = {"columns": 2, "cardHeight": 400}
    return {"uuid": name, "name": name, "display": True, "isReordered": True, "deleted": False, **size}


def _chart(kind: str, section: str, name: str) -> dict[str, Any]:
    return {
        "uuid": f"{section} {name}",
        "type": kind,
        "metricSectionId": section,
        "displayName": name,
        "isGenerated": False,
        "deleted": False,
        "runsCountToCompare": 10,
    }


def view_link(experiment: str, *, charts: bool) -> str:
    """Return the link to the view, relative to the page."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={TRIALS_VIEW}&workflowType=machine_learning{mode}"
