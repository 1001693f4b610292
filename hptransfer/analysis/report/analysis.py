"""An analysis as users hold it: its findings, with its figures and its page."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.analysis.predict.findings import Findings
from hptransfer.analysis.report.figures import Drawing, figures
from hptransfer.analysis.report.page import RunContext, render


@dataclass(frozen=True, eq=False)
class Analysis(Findings):
    """Findings that can be drawn and rendered."""

    def figures(self) -> dict[str, Drawing]:
        """Every figure of the page by name, as matplotlib draws it: a notebook shows what a cell ends with."""
        row = self.predictions.iloc[0]
        return figures(self.fit, {axis: float(row[axis]) for axis in self.fit.columns.scales}, self.ahead)

    def report_html(self, title: str = "table") -> str:
        """The page as self-contained HTML, to be written into a file."""
        return render(self, RunContext(title=title))
