"""Page of an analysis: one self-contained HTML file, without scripts."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader

from hptransfer.analysis.predict.findings import Findings
from hptransfer.analysis.report import sections
from hptransfer.analysis.report.comparison import ComparedSweep, compare_sweeps
from hptransfer.analysis.report.run_context import RunContext


def render(analysis: Findings, context: RunContext, against: ComparedSweep | None = None) -> str:
    """Return the page as text.

    Args:
        against: another sweep to compare with this one.
    """
    environment = Environment(loader=PackageLoader("hptransfer.analysis.report", "."), autoescape=True)
    return environment.get_template("page.html.j2").render(
        head=sections.head(analysis, context),
        targets=sections.target_rows(analysis),
        groups=sections.group_table(analysis, context),
        exponents=sections.exponent_section(analysis, context),
        extrapolation=sections.extrapolation_section(analysis, context),
        against=against,
        comparison=compare_sweeps(analysis, against.analysis) if against else None,
        next_runs=sections.next_run_rows(analysis),
        losses=sections.loss_panels(analysis.fit),
        scales=sections.scale_table(analysis.fit, context),
        facts=sections.facts(context),
    )
