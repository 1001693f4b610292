"""Expected losses of quadratics against simulation, best rates against their laws."""

import math

import numpy as np
import pytest

from tests.support import quadratics
from tests.support.quadratics import best_rate, lms_loss, power_law, power_law_loss, sign_best_rate


@pytest.mark.parametrize(
    ("rate", "dimensions", "batch", "steps", "noise_variance", "expected"),
    [(0.05, 16, 2, 30, 0.1, 0.11641), (0.1, 16, 4, 20, 0, 0.04110), (0.02, 64, 1, 50, 0.5, 0.97084)],
)
def test_lms_has_the_worked_losses(
    rate: float, dimensions: int, batch: int, steps: int, noise_variance: float, expected: float
) -> None:
    found = lms_loss(rate, dimensions=dimensions, batch=batch, steps=steps, noise_variance=noise_variance)
    assert found == pytest.approx(expected, abs=6e-6)


def test_lms_is_what_simulated_sgd_does() -> None:
    rate, n, batch, steps, runs = 0.1, 4, 2, 10, 20_000
    random = np.random.default_rng(0)
    error = np.full((runs, n), 0.5)
    for _ in range(steps):
        x = random.standard_normal((runs, batch, n))
        residual = np.einsum("rbn,rn->rb", x, error) - 0.5 * random.standard_normal((runs, batch))
        error = error - rate * np.einsum("rbn,rb->rn", x, residual) / batch
    found = (error**2).sum(axis=1).mean()
    assert found == pytest.approx(lms_loss(rate, dimensions=n, batch=batch, steps=steps, noise_variance=0.25), rel=0.02)


@pytest.mark.parametrize(("steps", "batch"), [(3, 1), (300, 1), (40, 8)])
def test_without_noise_the_best_lms_rate_does_not_depend_on_steps(steps: int, batch: int) -> None:
    def loss(rate: float) -> float:
        return lms_loss(rate, dimensions=16, batch=batch, steps=steps)

    expected = quadratics.lms_best_rate(dimensions=16, batch=batch)
    assert best_rate(loss, low=expected / 5, high=expected * 1.9) == pytest.approx(expected, rel=2e-3)
    assert loss(2 * expected) == pytest.approx(1)
    assert loss(2.02 * expected) > 1 > loss(1.98 * expected)


@pytest.mark.parametrize(
    ("steps", "expected", "law"), [(256, 0.01303, 0.01262), (1024, 0.003885, 0.003832), (4096, 0.001133, 0.001127)]
)
def test_with_noise_the_best_lms_rate_falls_with_steps(steps: int, expected: float, law: float) -> None:
    found = best_rate(
        lambda rate: lms_loss(rate, dimensions=16, batch=1, steps=steps, noise_variance=0.1),
        low=2**-12,
        high=2**-4,
        octaves=2e-4,
    )
    assert found == pytest.approx(expected, rel=1e-3)
    assert math.log(4 * steps / (0.1 * 16)) / (2 * steps) == pytest.approx(law, rel=1e-3)
    assert found == pytest.approx(law, rel=0.04)


def test_equal_eigenvalues_are_lms() -> None:
    found = power_law_loss(0.05, spectrum=np.ones(16), start=np.full(16, 1 / 16), batch=2, steps=30, noise_variance=0.1)
    expected = lms_loss(0.05, dimensions=16, batch=2, steps=30, noise_variance=0.1)
    assert 2 * found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_largest_rate_of_equal_eigenvalues_is_that_of_lms(batch: int) -> None:
    found = quadratics.power_law_largest_rate(spectrum=np.ones(16), batch=batch)
    assert found == pytest.approx(2 * quadratics.lms_best_rate(dimensions=16, batch=batch), rel=1e-12)


def test_above_the_largest_rate_the_loss_grows_and_below_it_does_not() -> None:
    spectrum = power_law(64, 0.6)
    largest = quadratics.power_law_largest_rate(spectrum=spectrum, batch=1)

    def loss(factor: float, steps: int) -> float:
        return power_law_loss(factor * largest, spectrum=spectrum, start=np.ones(64), batch=1, steps=steps)

    assert loss(1.02, 2000) > loss(1.02, 1000)
    assert loss(0.98, 2000) < loss(0.98, 1000)


@pytest.mark.parametrize(("exponent", "expected", "law"), [(0.4, -0.603, -0.6), (0.6, -0.414, -0.4), (1.4, -0.009, 0)])
def test_the_spectrum_chooses_how_the_largest_rate_goes_with_width(
    exponent: float, expected: float, law: float
) -> None:
    widths = (512, 1024, 2048, 4096)
    rates = [quadratics.power_law_largest_rate(spectrum=power_law(d, exponent), batch=1) for d in widths]
    slope = np.polyfit(np.log(widths), np.log(rates), 1)[0]
    assert slope == pytest.approx(expected, abs=0.001)
    assert slope == pytest.approx(law, abs=0.02)


def power_law_best(target: float, *, batch: int, steps: int) -> float:
    spectrum, start = power_law(2000, 1.5), power_law(2000, target)
    return best_rate(
        lambda rate: power_law_loss(rate, spectrum=spectrum, start=start, batch=batch, steps=steps, noise_variance=1.0),
        low=2**-8,
        high=2**-1.5,
        octaves=0.004,
    )


@pytest.mark.parametrize(
    ("target", "rates", "expected", "law"),
    [
        (0.5, (0.0830, 0.0651, 0.0503, 0.0388, 0.0298, 0.0227), -0.386, -0.4),
        (1.0, (0.0638, 0.0462, 0.0330, 0.0234, 0.0166, 0.0117), -0.500, -0.5),
    ],
)
def test_the_target_chooses_how_the_best_rate_goes_with_steps(
    target: float, rates: tuple[float, ...], expected: float, law: float
) -> None:
    steps = (64, 128, 256, 512, 1024, 2048)
    found = [power_law_best(target, batch=1, steps=T) for T in steps]
    assert found == pytest.approx(rates, rel=0.006)
    slope = np.polyfit(np.log(steps[3:]), np.log(found[3:]), 1)[0]
    assert slope == pytest.approx(expected, abs=0.004)
    assert slope == pytest.approx(law, abs=0.02)


@pytest.mark.parametrize(("target", "expected", "law"), [(0.5, 0.590, 0.6), (1.0, 0.491, 0.5)])
def test_the_target_chooses_how_the_best_rate_goes_with_batch(target: float, expected: float, law: float) -> None:
    batches = (1, 2, 4, 8, 16)
    found = [power_law_best(target, batch=B, steps=1024) for B in batches]
    slope = np.polyfit(np.log(batches), np.log(found), 1)[0]
    assert slope == pytest.approx(expected, abs=0.004)
    assert slope == pytest.approx(law, abs=0.02)


THETA = np.random.default_rng(0).normal(0, 0.1, 400)


@pytest.mark.parametrize(("batch", "expected"), [(1, 0.0026), (16, 0.0105), (256, 0.0370), (4096, 0.0722)])
def test_sign_descent_has_the_worked_rates(batch: int, expected: float) -> None:
    assert sign_best_rate(THETA, gradient_noise=3.0, batch=batch) == pytest.approx(expected, abs=1e-4)


def test_the_sign_rate_goes_as_the_root_of_small_batches_and_saturates() -> None:
    rates = {batch: sign_best_rate(THETA, gradient_noise=3.0, batch=batch) for batch in (1, 4, 10**6, 10**8)}
    assert rates[4] / rates[1] == pytest.approx(2, rel=1e-2)
    assert rates[10**8] == pytest.approx(np.abs(THETA).mean(), rel=1e-3)
    assert rates[10**8] / rates[10**6] < 1.01


def test_the_sign_rate_is_where_a_simulated_step_ends_lowest() -> None:
    random = np.random.default_rng(1)
    signs = np.sign(THETA + 3.0 / 16 * random.standard_normal((500, 400)))  # batch 256

    def loss(rate: float) -> float:
        return float(np.mean((THETA - rate * signs) ** 2))

    found = best_rate(loss, low=0.005, high=0.3)
    assert found == pytest.approx(sign_best_rate(THETA, gradient_noise=3.0, batch=256), rel=0.03)
