"""Analysis as users see it: findings, figures and page."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.analysis.predict.findings import Findings
from hptransfer.analysis.report.figures import Drawing, figures
from hptransfer.analysis.report.page import render
from hptransfer.analysis.report.run_context import RunContext


@dataclass(frozen=True, eq=False)
class Analysis(Findings):
    """Findings with figures and a page."""

    def figures(self) -> dict[str, Drawing]:
        """Return every figure of the page by name, as matplotlib figures.

        A notebook displays the figure that a cell ends with.
        """
        row = self.predictions.iloc[0]
        return figures(self.fit, {axis: float(row[axis]) for axis in self.fit.columns.scales}, self.larger_from_smaller)

    def report_html(self, title: str = "table") -> str:
        """Return the page as self-contained HTML, to write into a file."""
        return render(self, RunContext(title=title))
