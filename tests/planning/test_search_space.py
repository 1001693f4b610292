"""Several tuned hyperparameters: which settings are tried, and where a best one at an edge is extended."""

import math

import pytest

from hptransfer.planning.search_space import (
    Bounds,
    loosely_bracketed,
    next_point,
    one_at_a_time,
    product,
    unbracketed_edges,
)

LR = Bounds("lr", 1.0, 4.0, extend=2, largest=math.inf)
BATCH = Bounds("batch", 8.0, 32.0, extend=2, largest=math.inf)
GRIDS = ((1.0, 2.0, 4.0), (8.0, 16.0, 32.0))


def bowl(lr: float, batch: float) -> dict[tuple[float, float], float]:
    """Losses over the whole grid, least at these values."""
    return {
        (x, b): math.log2(x / lr) ** 2 + 0.5 * math.log2(b / batch) ** 2
        for x, b in product(GRIDS)  # type: ignore[misc]
    }


def test_product_and_one_at_a_time() -> None:
    assert len(product(GRIDS)) == 9
    assert one_at_a_time(GRIDS, (2.0, 16.0)) == [(1.0, 16.0), (2.0, 8.0), (2.0, 16.0), (2.0, 32.0), (4.0, 16.0)]


def test_a_best_setting_inside_needs_no_more() -> None:
    assert next_point(bowl(2.0, 16.0), (LR, BATCH)) is None
    assert unbracketed_edges(bowl(2.0, 16.0), (LR, BATCH)) == []


@pytest.mark.parametrize(
    ("best", "further"),
    [((8.0, 16.0), (8.0, 16.0)), ((2.0, 128.0), (2.0, 64.0)), ((0.2, 16.0), (0.5, 16.0)), ((8.0, 64.0), (8.0, 32.0))],
)
def test_the_hyperparameter_at_an_edge_is_extended_and_the_others_are_held(
    best: tuple[float, float], further: tuple[float, float]
) -> None:
    assert next_point(bowl(*best), (LR, BATCH)) == further
    assert unbracketed_edges(bowl(*best), (LR, BATCH))


def test_the_extension_ends_at_its_bound() -> None:
    losses = bowl(64.0, 16.0)
    for _ in range(LR.extend):
        setting = next_point(losses, (LR, BATCH))
        assert setting is not None
        losses[setting] = -math.log2(setting[0])  # type: ignore[index]
    assert next_point(losses, (LR, BATCH)) is None
    assert unbracketed_edges(losses, (LR, BATCH)) == ["best lr 16 of 1 to 16"]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((2.1, 2.0, 4.0), "best lr 2 beside 1, the smallest that was tried"),
        ((4.0, 2.0, math.inf), "best lr 2 beside 8, which diverged"),
        ((1.0, 2.0, 4.0), None),
        ((math.inf, math.inf, math.inf), None),
    ],
)
def test_a_best_value_inside_is_never_called_unbracketed(losses: tuple[float, ...], said: str | None) -> None:
    points = {(value, 16.0): loss for value, loss in zip((1.0, 2.0, 8.0), losses, strict=True)}
    assert loosely_bracketed(points, (LR, BATCH)) == ([said] if said else [])
    assert bool(unbracketed_edges(points, (LR, BATCH))) == (said is None)


def test_no_value_is_tried_above_the_largest() -> None:
    bounded = Bounds("lr", 1.0, 4.0, extend=2, largest=4.0)
    assert next_point(bowl(8.0, 16.0), (bounded, BATCH)) is None


def test_one_hyperparameter_is_the_same_thing() -> None:
    losses = {(1.0,): 3.0, (2.0,): 2.0, (4.0,): 1.0}
    assert next_point(losses, (LR,)) == (8.0,)


def test_one_at_a_time_never_makes_the_product() -> None:
    grids, centers = [[float(k) for k in range(1, 21)]] * 12, [7.0] * 12
    points = one_at_a_time(grids, centers)
    assert len(points) == 1 + 12 * 19
    assert points == sorted(points)
