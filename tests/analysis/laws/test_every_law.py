"""Every law: what was drawn from it is found again, and it keeps away from tables that lack its axes."""

import numpy as np
import pytest

from hptransfer.analysis.laws.exponents import INTERVAL
from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, default_laws, intercept_term
from hptransfer.analysis.laws.model_averaging import ModelAverage, average_models
from hptransfer.analysis.statistics import priors
from hptransfer.testing import laws
from tests.support.slow import slow_except

# Axes that a law is about, besides those that any table has.
AXES = {
    "drift": ("width", "depth"),
    "batch_time": ("batch_size", "tokens"),
    "tokens_per_parameter": ("params", "tokens"),
}
ANY = laws.ANY_AXES


def test_the_default_weighs_every_law_in_its_order() -> None:
    assert set(default_laws()) == set(LAWS.names())
    assert default_laws()[:2] == ("constant", "power")  # sums over laws depend on the order in their last bits


@pytest.mark.parametrize("default", [True, False])
def test_a_law_that_is_registered_is_weighed_if_it_says_so(monkeypatch: pytest.MonkeyPatch, default: bool) -> None:
    class Level(Law):
        def variants(self, seen: SweptAxes) -> list[Variant]:
            return [Variant("level", [intercept_term()])]

    Level.default = default
    monkeypatch.setitem(LAWS._members, "level", Level())
    assert ("level" in default_laws()) == default


@pytest.fixture
def without_bends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the curvature along every axis no freedom, as it can imitate other forms."""
    monkeypatch.setattr(priors, "BEND_SPREADS", (1e-6,) * len(priors.BEND_SPREADS))


@pytest.mark.parametrize("name", LAWS.names())
def test_a_law_finds_its_own_numbers_again(name: str) -> None:
    laws.check_recovery(name, AXES.get(name, ANY))


@pytest.mark.usefixtures("without_bends")
@pytest.mark.parametrize("name", [name for name in LAWS.names() if name not in ("constant", "power")])
def test_what_a_law_bends_a_power_law_misses(name: str) -> None:
    """The control: optima that this law draws are foreseen better with it than without."""
    scales = laws.scales_over(AXES.get(name, ANY))
    variants = laws.variants_of(name, scales)
    variant = variants[len(variants) // 2]
    _, x = laws.draw_optima(variant, scales, np.random.default_rng(1))
    if name == "drift":  # which bends at the smallest widths alone
        x = variant.matrix(scales) @ np.array([laws.INTERCEPT, 0.3, 0.3, 3.0])
    if name == "broken":
        x = variant.matrix(scales) @ np.array([laws.INTERCEPT, 0.3, 0.3, -0.9])
    shares = laws.model_weights(scales[:-1], x[:-1], ("power", name))
    power = LAWS.get("power").variants(SweptAxes.of(scales[:-1]))[0]
    straight = power.matrix(scales[:-1]) @ np.array([laws.INTERCEPT, 0.3, 0.3])
    plain = laws.model_weights(scales[:-1], straight, ("power", name))
    assert shares[name] > max(0.5, plain.get(name, 0.0))


@pytest.mark.parametrize("name", LAWS.names())
def test_every_variant_is_a_linear_form(name: str) -> None:
    laws.check_terms(name, AXES.get(name, ANY))


@pytest.mark.parametrize("name", slow_except(LAWS.names(), "power", "broken"))
def test_intervals_hold_the_target_where_the_law_is_one_of_those_weighed(name: str) -> None:
    """Optima scatter about a law of this form; all forms that apply are weighed."""
    laws.check_intervals(name, AXES.get(name, ANY))


@pytest.mark.usefixtures("without_bends")
def test_an_interval_without_scatter_and_form_holds_too_rarely() -> None:
    """The control: straight lines through bent optima, as if scales lay on them."""
    scales = laws.scales_over(ANY)
    variants = laws.variants_of("saturating", scales)
    held = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        _, x = laws.draw_optima(variants[0], scales, random)
        own = x + 0.1 * random.standard_normal(len(x))
        problem, found = laws.law_problem(scales[:-1], own[:-1] + 0.1 * random.standard_normal(len(x) - 1), 0.1)
        draws = ModelAverage.of(average_models(problem, [found], ("power",)), 300, seed).draws(scales[-1:])[:, 0, 0]
        low, high = np.percentile(draws, INTERVAL)
        held += low <= own[-1] <= high
    assert held / 20 < 0.7


@pytest.mark.parametrize("name", AXES)
def test_a_law_about_certain_axes_does_not_apply_without_them(name: str) -> None:
    laws.check_abstains_without_its_axes(name, AXES[name], ("width",) if name == "drift" else ())


@pytest.mark.parametrize(("name", "values"), [("broken", 3), ("saturating", 2), ("drift", 2)])
def test_a_law_that_bends_needs_enough_values_to_show_it(name: str, values: int) -> None:
    axes = AXES.get(name, ANY)
    assert LAWS.get(name).variants(SweptAxes.of(laws.scales_over(axes, values)[:-1])) == []
    assert LAWS.get(name).variants(SweptAxes.of(laws.scales_over(axes, values + 1)[:-1]))
