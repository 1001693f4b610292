"""What a table warns of, each beside a table that does not."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis import Analysis, FitError, analyze, pipeline
from tests.support.landscape import draw


@pytest.fixture(autouse=True)
def without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest and warns of nothing."""
    for name in ("leave_one_out", "rehearse", "next_runs"):
        monkeypatch.setattr(pipeline, name, lambda *_: [])


def table(**more: Any) -> pd.DataFrame:
    """Runs over params and tokens with a learning rate and a batch size in sequences."""
    random, rows = np.random.default_rng(0), []
    for n in (1e6, 4e6, 1.6e7):
        for d in (1e8, 4e8, 1.6e9):
            for x in range(-3, 4):
                loss = 3 + (n / 1e6) ** -0.1 + 0.02 * x**2 + 0.001 * random.standard_normal()
                rows.append({"params": n, "tokens": d, "lr": 2.0 ** (x - 8), "loss": loss, **more})
    return pd.DataFrame(rows)


TARGET = {"params": 3.2e7, "tokens": 1.6e9}


def found(frame: pd.DataFrame, *targets: dict[str, float], scale: tuple[str, ...] = ("params", "tokens")) -> Analysis:
    return analyze(frame, scale=scale, tune=["lr"], targets=list(targets or (TARGET,)))


def test_a_plain_table_warns_of_nothing() -> None:
    assert found(table(steps=1000, warmup=100, batch_size=64)).warnings == []


def one(analysis: Analysis, words: str) -> str:
    """The only warning, which has these words."""
    (warning,) = analysis.warnings
    assert words in warning
    assert "\n" not in warning
    return warning


def test_a_target_too_far_is_named() -> None:
    near, far = {"params": 2**3 * 1.6e7, "tokens": 1.6e9}, {"params": 2**5 * 1.6e7, "tokens": 1.6e9}
    assert found(table(), near).warnings == []
    assert "params=512M, tokens=1.6B lies 5.0 octaves beyond" in one(
        found(table(), near, far), "extrapolation this far is unreliable"
    )


def test_too_few_steps() -> None:
    frame = table(steps=50)
    assert found(frame).warnings == []
    frame.loc[3, "steps"] = 20
    one(found(frame), "the column steps has values down to 20: if they count optimizer steps, ")
    frame.loc[3, "loss"] = math.nan  # it diverged, and ended early
    assert found(frame).warnings == []


def test_mixed_schedules_are_one_line() -> None:
    frame = table(warmup=100, schedule="cosine", note="a")
    assert found(frame).warnings == []
    frame.loc[::2, "note"] = "b"
    assert found(frame).warnings == []
    frame.loc[::2, ["warmup", "schedule"]] = [200, "linear"]
    one(found(frame), "runs differ in warmup and schedule")


@pytest.mark.slow
def test_sizes_that_are_all_but_the_same() -> None:
    grid = table()
    steps = 2.0 ** (np.arange(len(grid)) % 2)  # the batch of each run: tokens are whole steps of it
    rounded = grid.assign(tokens=grid["tokens"] // (3e5 * steps) * 3e5 * steps)
    lines = found(rounded).warnings
    words = "tokens has values within 2% of each other, such as 99600000 and 99900000, and each counts as a scale"
    assert len([line for line in lines if words in line and "round the column tokens" in line]) == 1
    assert not any("params has values" in line for line in lines)
    by_percents = grid.assign(tokens=grid["tokens"] * 1.03 ** (np.arange(len(grid)) // 7 % 2))
    assert not any("% of each other" in line for line in found(by_percents).warnings)


def test_axes_that_grow_together() -> None:
    frame = table()
    diagonal = frame[np.isclose(frame["tokens"], 100 * frame["params"])]
    one_more = [diagonal, frame[frame["tokens"] == 1e8]]
    assert not any("grow together" in line for line in found(pd.concat(one_more).drop_duplicates()).warnings)
    assert any("params and tokens grow together" in line for line in found(diagonal).warnings)


@pytest.mark.slow
def test_a_batch_size_that_moves_with_the_tokens() -> None:
    frame = table(batch_size=64)
    assert found(frame).warnings == []
    frame["batch_size"] = np.sqrt(frame["tokens"])
    assert "the exponent along tokens changes sign" in one(found(frame), "runs differ in batch_size")
    assert not any("neither a scale nor tuned" in line for line in found(
        frame.assign(batch_size=2 ** (np.arange(len(frame)) % 3)), {**TARGET, "batch_size": 2},
        scale=("params", "tokens", "batch_size"),
    ).warnings)  # fmt: skip


@pytest.mark.slow
def test_the_warning_of_a_batch_size_names_its_values_and_no_axis_that_is_missing() -> None:
    frame = table().query("tokens == 4e8").drop(columns="tokens").reset_index(drop=True)
    frame = pd.concat([frame.assign(batch=batch) for batch in (128, 512)], ignore_index=True)
    frame["loss"] += 0.02 * (np.log2(frame["lr"]) + 8 - 0.5 * (frame["batch"] == 512)) ** 2
    warning = one(found(frame, {"params": 3.2e7}, scale=("params",)), "runs differ in batch (values 128, 512)")
    assert "may move the best lr: add it to --scale or --tune" in warning
    assert "tokens" not in warning


def pooled(levels: tuple[float, ...]) -> pd.DataFrame:
    """Three runs at each point, of which each has one of the levels, with the noise of the table."""
    random, frame = np.random.default_rng(1), table().query("tokens == 4e8")
    parts = [frame.assign(loss=frame["loss"] + level) for level in levels]
    mixed = pd.concat(parts, ignore_index=True).drop(columns="tokens")
    return mixed.assign(loss=mixed["loss"] + 0.004 * random.standard_normal(len(mixed)))


def message(frame: pd.DataFrame) -> str:
    """The refusal or the warnings of a table over params."""
    try:
        return "\n".join(found(frame, {"params": 3.2e7}, scale=("params",)).warnings)
    except FitError as error:
        return str(error)


def test_experiments_that_no_column_tells_apart_are_suspected_by_their_levels() -> None:
    mixed = pooled((0.0, 0.6, 1.2))
    assert "repeats differ by about 0.6 nats at every point, as runs of several experiments do" in message(mixed)
    assert "little more than noise" not in message(mixed)
    assert "runs to add" not in message(mixed)  # further runs of a mixture would not help
    assert "at every point" not in message(pooled((0.0, 0.0, 0.0)))  # the control: repeats that are noise
    moved = mixed.assign(
        loss=mixed["loss"] + 0.3 * (np.log2(mixed["lr"]) + 8) * (np.arange(len(mixed)) * 3 // len(mixed) == 1)
    )
    assert "repeats differ by the order of their rows" in message(moved)  # their optima differ, too
    assert "repeats differ" not in message(moved.sample(frac=1, random_state=0))
    numbered = mixed.assign(seed=np.arange(len(mixed)) * 3 // len(mixed))  # the way out
    assert message(numbered) == ""


def test_batch_sizes_in_tokens_and_in_sequences() -> None:
    frame = table()
    frame["batch_size"] = np.where(frame["params"] < 2e6, 64.0, 128.0)
    frame["batch_size"] = frame["batch_size"] * np.where(frame["tokens"] > 1e9, 2.0, 1.0)
    target = {**TARGET, "batch_size": 128}
    scale = ("params", "tokens", "batch_size")
    assert not any("in sequences in some rows" in line for line in found(frame, target, scale=scale).warnings)
    mixed = frame.assign(batch_size=frame["batch_size"] * np.where(frame["params"] > 1e7, 2048, 1))
    lines = found(mixed, target, scale=scale).warnings
    assert any(
        "batch_size runs from 64 to 524288 with nothing between 256 and 262144: in seq" in line for line in lines
    )
    lines = found(frame, {**TARGET, "batch_size": 128 * 2048}, scale=scale).warnings  # only the targets are in tokens
    assert any("batch_size of the targets" in line and "are both in the same unit?" in line for line in lines)


def test_targets_in_another_unit() -> None:
    assert not any("same unit" in line for line in found(table(), {"params": 3.2e8, "tokens": 1.6e9}).warnings)
    lines = found(table(), {"params": 32.0, "tokens": 1.6e9}).warnings
    assert lines == ["params of the targets runs from 32 to 32, of the runs from 1M to 16M: are both in the same unit?"]


def test_a_refusal_has_the_warnings_and_names_what_separates_the_runs() -> None:
    frame = table(steps=20).assign(run=["first", "second", "third"] * 21)
    frame["loss"] = frame["run"].map({"first": 3.0, "second": 4.0, "third": 5.0}) + 1e-6 * np.arange(len(frame))
    with pytest.raises(FitError) as refused:
        found(frame)
    steps, pooled = refused.value.warnings
    assert "the column steps has values down to 20" in steps
    assert "runs differ in run (values first, second, third), which is neither a scale nor tuned" in pooled
    message = str(refused.value)
    assert message.endswith(
        "; the runs differ in run, too, which separates their losses: analyze each value separately"
    )
    assert message.startswith("42 of 63 losses lie far from any response surface through the others; are several ")
    assert "runs to add" not in message  # further runs of a mixture would not help


def test_runs_far_from_all_others_are_named_with_repeats_that_decide() -> None:
    frame = table()
    frame["loss"] = np.array([3.0, 4.0, 5.0] * 21) + 1e-6 * np.arange(len(frame))
    with pytest.raises(FitError) as refused:
        found(frame)
    message = str(refused.value)
    assert (
        "42 of 63 losses lie far from any response surface through the others (row 2; 3; 5; 6 and 38 more)" in message
    )
    assert "or repeat some of these runs: those that a repeat does not confirm can be left out" in message
    assert "`printf '%s\\n' params,tokens,lr,loss 1000000,100000000,0.000" in message


def test_a_refusal_for_other_reasons_keeps_its_way_out() -> None:
    frame = table().assign(run=["first", "second", "third"] * 21)
    frame["loss"] = frame["run"].map({"first": 3.0, "second": 4.0, "third": 5.0}) + 0.02 * np.log2(frame["lr"]) ** 2
    with pytest.raises(
        FitError, match=r"all runs are at one scale .* params,tokens,lr,loss \d+.* > .*; the runs differ in run, too"
    ):
        found(frame.assign(params=1e6, tokens=1e8))


def test_cells_without_a_bracket_are_one_line() -> None:
    frame = table()
    assert not any("bracketed" in line for line in found(frame).warnings)
    cut = frame[(frame["params"] < 1e7) | (frame["lr"] >= 2.0**-8)]
    assert one(found(cut), "no bracketed optimum of lr (edge, low)").count("params=16M") == 3


def test_an_axis_with_one_value_and_scales_as_many_as_parameters() -> None:
    frame = table()
    few = frame[(frame["tokens"] == 1e8) & (frame["params"] < 1e7)]
    lines = found(few, {"params": 8e6, "tokens": 1e8}).warnings
    assert any("only one value of tokens was swept" in line for line in lines)
    assert any("as many scales as a power law has parameters" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("edge", [False, True])
def test_warnings_stay_few_where_many_scales_share_one(edge: bool) -> None:
    runs, _ = draw((-0.1, -0.2, -0.35), noise=0.003)
    runs = runs[runs["lr"] > 2.0**-7.5] if edge else runs
    target = [{"width": 256, "depth": 4, "tokens": 2**17}]
    lines = analyze(runs, scale=["width", "depth", "tokens"], tune=["lr"], targets=target).warnings
    assert len(lines) <= 2
    assert any("and 7 more" in line for line in lines) == edge
