"""u-muP's numbers are the unit-scaling package's, or exact."""

import math

import pytest
from scipy.integrate import quad
from unit_scaling import transformer_residual_scaling_rule

from hptransfer.parameterizations import unit_scaling

EXACT = {"relu": lambda x: max(x, 0.0), "relu2": lambda x: max(x, 0.0) ** 2, "tanh": math.tanh}


def normal_mean(f: object) -> float:
    """Return the mean of f(x) for unit normal x."""
    return quad(lambda x: f(x) * math.exp(-(x**2) / 2) / (2 * math.pi) ** 0.5, -12, 12, points=[0])[0]


@pytest.mark.parametrize("name", EXACT)
def test_activations_that_the_package_lacks_give_unit_variance(name: str) -> None:
    f = EXACT[name]
    variance = normal_mean(lambda x: f(x) ** 2) - normal_mean(f) ** 2
    assert unit_scaling.activation(name) == pytest.approx(variance**-0.5, rel=1e-9)


@pytest.mark.parametrize(("residual", "ratio"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.25)])
def test_branches_are_weighed_as_the_package_does(residual: float, ratio: float) -> None:
    layers = 10  # branches: attention and MLP in turn
    theirs = transformer_residual_scaling_rule(residual, ratio)
    ours = unit_scaling.branches([True, False] * 5, residual=residual, attention_ratio=ratio)
    assert ours == pytest.approx([theirs(index, layers) for index in range(layers)], rel=1e-12)


@pytest.mark.parametrize("attends", [[False] * 8, [True, False] * 4])
@pytest.mark.parametrize("residual", [1.0, 0.5])
def test_all_branches_of_a_kind_add_the_same_whatever_their_depth(attends: list[bool], residual: float) -> None:
    """Follow the shares of embedding and branches in the stream's variance."""
    shares = [1.0]
    for tau in unit_scaling.branches(attends, residual=residual):
        factor, skip = unit_scaling.branch_weights(tau)
        assert factor**2 + skip**2 == pytest.approx(1)
        shares = [*(share * skip**2 for share in shares), factor**2]
    assert shares[1:] == pytest.approx([shares[1]] * len(attends))
    kinds = len(set(attends))
    assert sum(shares[1:]) == pytest.approx(kinds * residual**2 * shares[0])


def test_the_losses_gradient_has_unit_size_at_the_start() -> None:
    outputs, terms = 10, 7
    p = 1 / outputs
    entries = [(1 - p) / terms, *[p / terms] * (outputs - 1)]
    size = (sum(entry**2 for entry in entries) / outputs) ** 0.5
    assert size * unit_scaling.loss_gradient(terms, outputs, squared=False) == pytest.approx(1)
