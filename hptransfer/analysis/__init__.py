"""Analysis: fit a law of the optima and predict for larger scales.

In a notebook, on a DataFrame with one row per run (docs/analyze-a-table.md):

    from hptransfer.analysis import analyze

    analysis = analyze(runs, scale=["params", "tokens"], tune=["lr"], targets=[{"params": 7e9, "tokens": 1.4e11}])
    analysis.predictions, analysis.exponents, analysis.optima, analysis.held_out
    analysis.figures()["law_lr_params"]
    Path("report.html").write_text(analysis.report_html())

Losses have the unit of the table; an octave is a factor of two; intervals are 90%. A faulty table raises ConfigError,
and a table to which no law can be fitted raises FitError; both messages are one line.

    tables       sources (CSV, parquet, JSON, W&B, Optuna, MLflow), columns, checks
    statistics   priors, the linear normal model, quantiles
    optima       the optimum of every scale: estimators, response surface
    laws         the fit: forms of law, model averaging, exponents, the loss law
    predict      predictions, validation, next runs, published laws, warnings
    report       page, figures, comparison, exports
    pipeline     all stages, written to a folder with report.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import ConfigError, FitError

if TYPE_CHECKING:
    from hptransfer.analysis.api import analyze
    from hptransfer.analysis.report.analysis import Analysis

__all__ = ["Analysis", "ConfigError", "FitError", "analyze"]

# Imported on first access, so that the command line's help need not import SciPy.
_LAZY = {"Analysis": "hptransfer.analysis.report.analysis", "analyze": "hptransfer.analysis.api"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
