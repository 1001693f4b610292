"""Refusals: each is true, and the runs that it names make the fit possible."""

import io
import math
import subprocess
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.laws.edge_distance import distances_beyond
from hptransfer.analysis.laws.fit import fit_table
from hptransfer.analysis.laws.repeats import level_difference, repeat_noise, spread_along
from hptransfer.analysis.laws.runs_to_add import AddedRuns, TooFewRunsError, format_added
from hptransfer.analysis.tables.arrays import Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import FitError

ONE = Columns(scales=("width",), tuned=("lr",))
TWO = Columns(scales=("width", "depth"), tuned=("lr", "batch"))
# Rounds of adding the named runs after which a table has to be answered.
MOST_ROUNDS = 4

Loss = Callable[[dict[str, float]], float]


def bowl(row: dict[str, float]) -> float:
    """Loss with its optimum at 2^-8 at width 32, lower at larger widths; it diverges far above."""
    away = math.log2(row["lr"]) + 8 + 0.4 * math.log2(row["width"] / 32)
    if away > 5:
        return math.inf
    aside = math.log2(row.get("batch", 64.0) / 64)
    return 3 + 2 * row["width"] ** -0.3 + 0.03 * away**2 + 0.02 * aside**2


def table(columns: Columns, rows: Sequence[dict[str, float]], loss: Loss = bowl) -> pd.DataFrame:
    frame = pd.DataFrame([{**row, "loss": loss(row)} for row in rows])
    return check_table(frame, columns, "test")


def grid(widths: Sequence[int], octaves: Sequence[float]) -> list[dict[str, float]]:
    return [{"width": width, "lr": 2.0**k} for width in widths for k in octaves]


def refusal(frame: pd.DataFrame, columns: Columns = ONE, estimator: str = "surface") -> TooFewRunsError:
    with pytest.raises(TooFewRunsError) as refused:
        fit_table(frame, columns, estimator=estimator, draws=200)
    assert "\n" not in str(refused.value)
    return refused.value


def message_of(frame: pd.DataFrame) -> str:
    """The message of a refusal, blank if the table is answered."""
    try:
        fit_table(frame, ONE, draws=200)
    except FitError as error:
        return str(error)
    return ""


def pasted(error: TooFewRunsError) -> list[dict[str, float]]:
    """The rows that a message's command writes, as a shell runs it."""
    command = str(error).rpartition(": `")[2].rpartition(" > runs_to_add.csv`")[0]
    written = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    frame = pd.read_csv(io.StringIO(written))
    assert len(frame)
    assert frame.pop("loss").isna().all()
    return [{str(name): float(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


REFUSED: dict[str, tuple[Columns, list[dict[str, float]], str]] = {
    "one scale": (ONE, grid([64], range(-11, -4)), "all runs are at one scale"),
    "all below": (ONE, grid([32, 64, 128], [-16, -15, -14]), "no optimum of lr lies inside the tried values"),
    "all above": (ONE, grid([32, 64, 128], [-5, -4.5, -4]), "no optimum of lr lies inside the tried values"),
    "one value": (ONE, grid([32, 64], [-8]), "lr was tried at 1 value, at least 3"),
    "two values": (ONE, grid([32, 64], [-12, -11]), "lr was tried at 2 values, at least 3"),
    "all diverged": (ONE, grid([32, 64], [0, 1, 2]), "0 scales have a run that did not diverge"),
    "one scale diverged": (
        ONE,
        [*grid([32], range(-11, -4)), *grid([64], [0, 1, 2])],
        "1 scale has a run that did not diverge",
    ),
    "too few scales": (
        TWO,
        [
            {"width": width, "depth": depth, "lr": 2.0**k, "batch": batch}
            for width, depth in ((32, 2), (64, 4))
            for k in range(-10, -5)
            for batch in (32, 64, 128)
        ],
        "2 scales have a run that did not diverge, a law over width, depth needs 3; 1 more needed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_named_runs_make_the_fit_possible(case: str) -> None:
    columns, rows, words = REFUSED[case]
    error = refusal(table(columns, rows), columns)
    assert words in str(error)
    for _ in range(MOST_ROUNDS):
        rows = [*rows, *pasted(error)]
        try:
            fit_table(table(columns, rows), columns, draws=200)
        except TooFewRunsError as further:
            error = further
        else:
            return
    pytest.fail(f"still refused: {error}")


# Grids in octaves, all at 32 to 256 or at the first two widths, whose optima lie from -8 down to -9.2.
ROUNDS: dict[str, tuple[Sequence[int], Sequence[float]]] = {
    "far below": ([32, 64, 128, 256], [-16, -15, -14]),
    "below, two scales": ([32, 64], [-13, -12, -11]),
    "narrow, below": ([32, 64, 128, 256], [-12, -11.5, -11]),
    "wide, below": ([32, 64, 128, 256], range(-17, -10)),
    "above": ([32, 64, 128, 256], [-6, -5, -4]),
    "two values": ([32, 64, 128, 256], [-13, -12]),
}


def unequal(random: np.random.Generator, skew: float) -> Loss:
    """A bowl with a steeper upper side, noise, and an edge of divergence four octaves above the optimum."""

    def loss(row: dict[str, float]) -> float:
        away = math.log2(row["lr"]) + 8 + 0.4 * math.log2(row["width"] / 32)
        rise = 0.06 * (math.expm1(skew * away) - skew * away) / skew**2
        return math.inf if away > 4.5 else 3 + 2 * row["width"] ** -0.3 + rise + 0.002 * random.standard_normal()

    return loss


@pytest.mark.parametrize("case", ROUNDS)
def test_one_round_of_added_runs_suffices_in_most_cases(case: str) -> None:
    """Two bowls a case, equal and unequal; at most three rounds for both."""
    rounds: list[int] = []
    for loss in (bowl, unequal(np.random.default_rng(0), 0.3)):
        rows = [row for width in ROUNDS[case][0] for row in grid([width], ROUNDS[case][1])]
        frame = table(ONE, rows, loss)
        rounds.append(0)
        while message_of(frame) and rounds[-1] < MOST_ROUNDS:
            frame = pd.concat([frame, table(ONE, pasted(refusal(frame)), loss)], ignore_index=True)
            rounds[-1] += 1
    assert min(rounds) > 0
    assert sum(rounds) <= 3, rounds


def test_the_slope_of_the_losses_tells_how_far_the_optimum_lies() -> None:
    """Parabolas in nats: values from half of the distance to twice of it; straight ones: by the tried range."""
    rows = grid([32, 64], [-15, -14, -13])
    runs = Runs.of(table(ONE, rows), ONE)
    assert distances_beyond(runs, 0, 0, 1, 1.0) == pytest.approx([2.5, 5, 10])
    assert distances_beyond(runs, 1, 0, 1, 1.0) == pytest.approx([2.3, 4.6, 9.2])
    straight = Runs.of(table(ONE, rows, lambda row: 3 - 0.1 * math.log2(row["lr"])), ONE)
    assert distances_beyond(straight, 0, 0, 1, 1.0) == pytest.approx([1, 2, 4, 8])
    steep = Runs.of(table(ONE, rows, lambda row: 3 + math.sqrt(1 + (math.log2(row["lr"]) + 8) ** 2)), ONE)
    assert distances_beyond(steep, 0, 0, 1, 1.0) == pytest.approx([4, 6.93, 12], abs=0.01)
    across = Runs.of(table(ONE, [*grid([32], [-10, -9]), *grid([2048], [-10, -9])]), ONE)
    assert distances_beyond(across, 0, 0, 1, 1.0) == pytest.approx([1, 2])  # the larger scale is best at the lower end


@pytest.mark.parametrize("estimator", ["quadratic", "nested"])
def test_the_runs_of_a_published_estimator_make_it_possible(estimator: str) -> None:
    rows = grid([32, 64, 128], [-12, -11, -10])
    error = refusal(table(ONE, rows), estimator=estimator)
    assert "0 scales have runs that place an optimum, a law over width needs 2; 2 more needed" in str(error)
    for _ in range(MOST_ROUNDS):
        rows = [*rows, *pasted(error)]
        try:
            fit_table(table(ONE, rows), ONE, estimator=estimator, draws=200)
        except TooFewRunsError as further:
            error = further
        else:
            return
    pytest.fail(f"still refused: {error}")


def test_the_named_runs_are_at_the_cheapest_scales() -> None:
    rows = grid([32, 64, 128, 256], [-16, -15, -14])
    assert {row["width"] for row in pasted(refusal(table(ONE, rows)))} == {32, 64}
    costly = table(ONE, rows).assign(flops=lambda frame: 1 / frame["width"])
    assert {row["width"] for row in pasted(refusal(costly))} == {256, 128}


def test_a_command_writes_the_runs_as_rows_of_the_table() -> None:
    added = [
        AddedRuns({"width": 64.0, "depth": 2.0}, np.log2([[0.004, 64], [0.016, 64]])),
        AddedRuns({"width": 1e21, "depth": 2.5}, np.log2([[1e-5, 524288]])),
    ]
    assert format_added(TWO, added) == (
        "the runs to add, as rows whose loss is to be filled in: `printf '%s\\n' width,depth,lr,batch,loss "
        "64,2,0.004,64, 64,2,0.016,64, 1e21,2.5,1e-5,524288, > runs_to_add.csv`"
    )


def test_names_of_columns_reach_the_rows_unchanged() -> None:
    """Names with blanks, quotes, commas and signs of a shell."""
    columns = Columns(scales=("model size, 1e6",), tuned=("100% of $HOME's",), loss="loss")
    error = TooFewRunsError("too few", columns, [AddedRuns({"model size, 1e6": 64.0}, np.log2([[0.5]]))])
    assert pasted(error) == [{"model size, 1e6": 64.0, "100% of $HOME's": 0.5}]


def test_values_are_as_exact_as_the_table_s_own_and_whole_where_those_are() -> None:
    rows = [
        {"width": width, "depth": depth, "lr": 0.00123456789, "batch": batch}
        for width, depth in ((32, 2), (64, 2), (32, 4))
        for batch in (1, 2, 3)
    ]
    named = pasted(refusal(table(TWO, rows), TWO))
    assert {row["batch"] for row in named} == {3}
    assert all(len(str(row["lr"])) <= 8 for row in named)  # new values have three digits
    rows = [{**row, "batch": 3.0, "lr": row["lr"] * row["batch"]} for row in rows]
    assert {row["batch"] for row in pasted(refusal(table(TWO, rows), TWO))} == {2, 6}


def noisy(random: np.random.Generator, height: float) -> Loss:
    def loss(row: dict[str, float]) -> float:
        return 3 + height * math.log2(row["lr"] / 2**-8) ** 2 + 0.01 * random.standard_normal()

    return loss


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_named_where_losses_differ_by_little_more(seed: int) -> None:
    rows = grid([32, 64, 128], range(-11, -4)) * 2
    frame = table(ONE, rows, noisy(np.random.default_rng(seed), 0.0))
    error = refusal(frame)
    assert "the losses show no optimum of lr: along it they differ by little more than noise" in str(error)
    assert "leave it out of --tune" not in str(error)  # nothing else is tuned
    for row in pasted(error):  # beyond what was tried
        assert not 2.0**-11 <= row["lr"] <= 2.0**-5


def test_leaving_a_column_out_is_named_where_another_is_tuned() -> None:
    values = [2.0**k for k in range(-10, -5)]
    rows = [{"width": w, "depth": 2, "lr": lr, "batch": b} for w in (32, 64) for lr in values for b in (32, 64)]
    assert "batch was tried at 2 values, at least 3 place an optimum; run more, or leave it out of --tune" in str(
        refusal(table(TWO, rows), TWO)
    )
    alone = refusal(table(ONE, grid([32, 64], [-9, -8])))
    assert "lr was tried at 2 values, at least 3 place an optimum; run more; " in str(alone)


def test_equal_losses_are_named_and_no_edge() -> None:
    frame = table(ONE, grid([32, 64, 128], range(-11, -4)), lambda row: 1.0)
    message = str(refusal(frame))
    assert message.startswith("all losses of a scale are equal (1 at width=32), so that no value of lr is better")
    assert "edge" not in message


def test_a_best_run_inside_counts_though_the_edge_has_the_same_loss() -> None:
    """Two decimals on a plateau: the least loss lies at the edge and inside, and the runs cannot say which is best."""
    losses = dict(zip(range(-11, -4), [3.1, 3.1, 3.1, 3.11, 3.1, 3.11, 3.1], strict=True))
    frame = table(ONE, grid([32, 64, 128], range(-11, -4)), lambda row: losses[round(math.log2(row["lr"]))])
    assert "no optimum of lr lies inside the tried values" not in message_of(frame)


def test_levels_are_told_from_noise() -> None:
    random = np.random.default_rng(0)
    rows = grid([32, 64, 128], range(-11, -4))
    for repeats in (2, 3, 5):
        noise = Runs.of(table(ONE, rows * repeats, noisy(random, 0.03)), ONE)
        assert level_difference(noise) is None
        level = table(ONE, rows * repeats, noisy(random, 0.03))
        level["loss"] += 0.3 * (np.arange(len(level)) >= len(rows))
        assert level_difference(Runs.of(level, ONE)) == pytest.approx(0.3, abs=0.03)
        assert level_difference(Runs.of(level.assign(seed=np.arange(len(level)) // len(rows)), ONE)) is None
    assert level_difference(Runs.of(table(ONE, rows * 2), ONE)) is None  # copies


@pytest.mark.parametrize("factor", [1, 100])
def test_large_differences_are_never_called_noise(factor: float) -> None:
    """Whatever the fit makes of a saw, its losses differ by far more than repeats do."""

    def saw(row: dict[str, float]) -> float:
        return factor * (1 + 0.8 * (round(math.log2(row["lr"])) % 2) + 1e-4 * (row["width"] / 32))

    frame = table(ONE, grid([32, 64, 128], range(-11, -4)) * 2, saw)
    assert "little more than noise" not in message_of(frame)


def test_noise_is_measured_by_repeats_and_spread_by_lines() -> None:
    random = np.random.default_rng(0)
    rows = grid([32, 64, 128], range(-11, -4)) * 3
    flat, steep = (Runs.of(table(ONE, rows, noisy(random, height)), ONE) for height in (0.0, 0.03))
    for runs in (flat, steep):
        assert repeat_noise(runs) == pytest.approx(0.01 / 3, rel=0.4)
    assert spread_along(flat, 0) == pytest.approx(0.0022, rel=0.4)  # of medians of three repeats
    assert spread_along(steep, 0) == pytest.approx(0.034, rel=0.2)
    once = Runs.of(table(ONE, grid([32, 64], [-9, -8, -7])), ONE)
    assert repeat_noise(once) is None
    scattered = [{"width": 32.0, "depth": 2.0, "lr": 2.0**-k, "batch": 32.0 + k} for k in range(5, 9)]
    assert spread_along(Runs.of(table(TWO, scattered), TWO), 0) is None
