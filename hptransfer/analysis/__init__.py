"""From a table of outcomes to the law of the optimum, the target's prediction and the page.

In a notebook, on a DataFrame with one row a run (docs/analyze-a-table.md):

    from hptransfer.analysis import analyze

    found = analyze(runs, scale=["params", "tokens"], tune=["lr"], targets=[{"params": 7e9, "tokens": 1.4e11}])
    found.predictions, found.exponents, found.optima, found.held_out
    found.figures()["law_lr_params"]
    Path("report.html").write_text(found.report_html())

Losses are in nats; an octave is a factor of two; intervals are 90%. What is wrong with a table is a
ConfigError, a table from which no law can be fitted a FitError; both are one line.

    sources      tables of anybody's runs: CSV, parquet, W&B, Optuna, MLflow
    fit          the optimum of every scale, the law, draws, verdicts
    pipeline     all of it, written into a folder with report.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import ConfigError, FitError

if TYPE_CHECKING:
    from hptransfer.analysis.api import analyze
    from hptransfer.analysis.report.analysis import Analysis

__all__ = ["Analysis", "ConfigError", "FitError", "analyze"]

# What is imported when it is first asked for: the command line's help is not to wait for SciPy.
_LATER = {"Analysis": "hptransfer.analysis.report.analysis", "analyze": "hptransfer.analysis.api"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return __all__
