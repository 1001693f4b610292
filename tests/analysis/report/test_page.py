"""The page: its first screen, its part for experts, and figures in which nothing covers anything."""

import html
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hptransfer.analysis import Analysis
from hptransfer.analysis.report.figures import panel_figure, verification_panels
from hptransfer.analysis.report.page import render
from hptransfer.analysis.report.run_context import RunContext
from tests.support.bowls import Bowl, answer, power

TARGET_JSON = {
    "flops": 1e9,
    "params": 1000,
    "name": "small",
    "parameterization": "",
    "fingerprint": "f",
    "groups": None,
}
VERIFICATION = {
    "scale": {"width": 1024},
    "predicted": {"lr": 0.0026},
    "best": {"lr": 0.0027, "loss": 2.9},
    "error_octaves": {"lr": -0.05},
    "regret_nats": 0.0035,
    "regret_percent": 0.12,
    "untransferred": {"lr": 0.0156, "regret_nats": 0.3, "regret_percent": 10.5},
    "points": [{"lr": lr, "loss": loss} for lr, loss in ((0.001, 3.1), (0.002, 2.95), (0.004, 2.96), (0.008, 3.1))],
}


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    """A bowl that moves, with an edge of divergence so that its law's legend has all entries."""
    bowl = Bowl(curvature=0.02, optimum=power(-0.6), diverges=lambda width: power(-0.6)(width) + 3.4)
    return answer(bowl.runs(rates=tuple(range(-11, -2)), noise=0.003)).analysis


def first_screen(page: str) -> str:
    """Text of the header, without tags."""
    header = page.partition("<header>")[2].partition("</header>")[0]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", header)))


def test_the_first_screen_of_a_table_answers_five_questions(analysis: Analysis) -> None:
    words = first_screen(analysis.report_html())
    assert "Train width=1024 with lr = " in words
    assert "risk: expected loss to the target's own optimum" in words
    assert "Not verified" in words
    assert "36 runs at 4 scales; their cost is not known" in words
    assert re.search(r"estimated loss of reusing the smallest scale's optimum, lr 0\.01\d+ \(\d.*% to \d.*%\)", words)


def test_the_first_screen_of_a_verified_run_says_what_was_measured_and_what_it_cost(analysis: Analysis) -> None:
    page = render(analysis, RunContext(title="small", target=TARGET_JSON, verification=VERIFICATION, flops=2.5e8))
    words = first_screen(page)
    assert "0.12% verified at width=1024" in words
    assert "10.50% measured loss of reusing the smallest scale's optimum (lr 0.0156)" in words
    assert "25% cost of the 36 runs" in words
    assert not any(text in words for text in ("Not verified", "estimated loss"))


def test_matters_of_the_fit_are_folded_into_the_part_for_experts(analysis: Analysis) -> None:
    page = analysis.report_html()
    before, _, experts = page.partition("<details>")
    for text in ("urvature", "Weights of the forms of law", "measured minus fitted", "Scatter of single scales"):
        assert text in experts
        assert text not in before
    for text in ("Does the optimum move", "Does it extrapolate?", "<h2>Scales</h2>"):
        assert text in before


def test_every_wide_table_scrolls_or_folds_on_a_phone(analysis: Analysis) -> None:
    page = analysis.report_html()
    tables = re.findall(r"(\S*)<table([^>]*)>", page.replace('<div class="scroll">', "scroll:"))
    assert len(tables) > 4
    assert all(before.endswith("scroll:") or "fold" in attributes for before, attributes in tables)


def panels(analysis: Analysis) -> dict[str, Figure]:
    verified = {
        panel.name: panel_figure(panel) for panel in verification_panels(VERIFICATION, analysis.fit.columns.objective)
    }
    return {**analysis.figures(), **verified}


def test_no_legend_covers_a_panel_or_is_cut_off(analysis: Analysis) -> None:
    """Each legend is below its axes, in the figure, in at least 8 points."""
    with_legend = 0
    for name, figure in panels(analysis).items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        (axes,) = figure.axes
        assert axes.get_legend() is None, name
        for legend in figure.legends:
            box, drawn = legend.get_window_extent(renderer), axes.get_tightbbox(renderer)
            assert box.y1 <= drawn.y0 + 1, name
            assert box.x0 >= 0, name
            assert box.x1 <= figure.bbox.x1, name
            assert box.y0 >= 0, name
            assert all(text.get_fontsize() >= 8 for text in legend.get_texts()), name
            with_legend += 1
    assert with_legend >= 4
