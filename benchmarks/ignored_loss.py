"""Predicted and measured loss of reusing the smallest scale's optimum.

    python -m benchmarks.ignored_loss

Ten verifications. The largest size and budgets of the Step Law study and of four iso-FLOP experiments are left out and
predicted from the rest. So are the largest width of the quickstart in standard parameterization, and its target, which
`verify` trained, under muP. The measured loss is read from the
target's own runs alone, at the smallest scale's optimum: interpolated linearly on log axes for two tuned values, by a
curve for one. Its least loss is the least that was measured, which noise makes too low for the Step Law study: the
measured losses of reuse there are too large by about 0.002 nats.

The negative control gives each verification the prediction of another one, in percent of the loss: how often it is
within a factor of two says how much of the score is due to losses that are all alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.extrapolation import Measured
from benchmarks.held_out import DATA, ISOFLOPS, STEP_LAW
from hptransfer.analysis.laws.fit import fit_table
from hptransfer.analysis.optima.loss_curve import LossCurve
from hptransfer.analysis.predict.ignored_movement import IgnoredLoss, loss_of_reuse
from hptransfer.analysis.predict.validation import rehearse, widened
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table

QUICKSTART = Columns(scales=("width", "depth", "tokens"), tuned=("lr",))
# Tokens from which a run of the Step Law study is left out, where tokens are.
LONG = 2e10
# Iso-FLOP experiments whose runs at the largest budget reach down to the optimum of the smallest one that is left.
ISOFLOP_SPLITS = (
    ("marin_202603__comma__llama_2", 0.0, 9e19),
    ("marin_202603__dclm__llama_2", 0.0, 9e19),
    ("marin_202603__nemotron__llama_2", 0.0, 9e19),
    ("llama_3__raw_loss", 3e20, 1e22),
)


@dataclass(frozen=True)
class Verified:
    """One verification: the runs that predict, and those of the target."""

    name: str
    runs: pd.DataFrame
    target: pd.DataFrame
    columns: Columns


@dataclass(frozen=True)
class Compared:
    """Predicted and measured loss of reuse, percent of the target's least loss.

    Attributes:
        predicted, low, high: percent of the predicted loss.
        ratio: predicted over measured.
    """

    name: str
    predicted: float
    low: float
    high: float
    measured: float
    printed: str

    @property
    def ratio(self) -> float:
        """Return predicted over measured."""
        return self.predicted / self.measured

    def markdown(self) -> str:
        inside = "yes" if self.low <= self.measured <= self.high else "no"
        interval = f"{self.predicted:.2f} | {self.low:.2f} to {self.high:.2f}"
        return f"| {self.name} | {interval} | {self.measured:.2f} | {self.ratio:.2f} | {inside} | {self.printed} |"


def verifications() -> Iterator[Verified]:
    """Yield all verifications."""
    table = check_table(pd.read_csv(DATA / "lm_lr_batch_sweep.csv"), STEP_LAW, "Step Law")
    for held_out, kind in ((table["params"] == table["params"].max(), "size"), (table["tokens"] >= LONG, "tokens")):
        for _, target in table[held_out].groupby(list(STEP_LAW.scales)):
            params, tokens = (float(target[axis].iloc[0]) for axis in STEP_LAW.scales)
            if kind == "size" or params < table["params"].max():
                name = f"Step Law, {params / 1e6:.0f}M, {tokens / 1e9:.1f}B tokens, {kind} left out"
                yield Verified(name, table[~held_out], target, STEP_LAW)
    isoflops = pd.read_csv(DATA / "isoflops.csv")
    for experiment, least, first in ISOFLOP_SPLITS:
        table = check_table(isoflops[isoflops["experiment"] == experiment], ISOFLOPS, experiment)
        budget = table["budget"]
        name = f"{experiment.replace('_', ' ').replace('  ', ' ')}, {budget.max():.3g} FLOPs"
        runs = table[(budget >= least) & (budget < first)]
        yield Verified(name, runs, table[budget == budget.max()], ISOFLOPS)
    quickstart = pd.read_csv(DATA / "quickstart_sweeps.csv")
    for parameterization, of_sweep in quickstart.groupby("parameterization"):
        table = check_table(of_sweep, QUICKSTART, str(parameterization))
        widest = table["width"] == table["width"].max()
        target = table[widest & (table["depth"] == table["depth"].max()) & (table["tokens"] == table["tokens"].max())]
        name = f"quickstart, {parameterization}, width {target['width'].iloc[0]:g}"
        yield Verified(name, table[~widest], target, QUICKSTART)


def predicted(verified: Verified) -> tuple[IgnoredLoss, Array]:
    """Return the predicted loss of reuse, and log2 of the reused values."""
    fit = fit_table(verified.runs, verified.columns)
    fit = widened(fit, rehearse(fit))
    scale: Axes = {axis: float(verified.target[axis].iloc[0]) for axis in verified.columns.scales}
    return loss_of_reuse(fit, scale, fit.smallest.x), fit.smallest.x


def measured_percent(verified: Verified, x: Array) -> float:
    """Return the measured loss of reuse at x in percent."""
    if len(verified.columns.tuned) > 1:
        return Measured(verified.target).regret(x)
    finite = verified.target[np.isfinite(verified.target["loss"])]
    losses = finite.groupby(verified.columns.tuned[0])["loss"].mean()
    curve = LossCurve(list(losses.index), list(losses))
    least = curve.minimum()[1]
    return 100 * (curve.at(float(x[0])) / least - 1)


def compare(verified: Verified) -> Compared:
    """Return what was predicted beside what was measured."""
    lost, x = predicted(verified)
    value, low, high = (100 * nats / lost.loss for nats in (lost.nats.value, lost.nats.low, lost.nats.high))
    return Compared(verified.name, value, low, high, measured_percent(verified, x), lost.percent())


def within_two(predictions: Sequence[float], measured: Sequence[float]) -> int:
    """Return the number of predictions within a factor of two."""
    pairs = zip(predictions, measured, strict=True)
    return sum(abs(math.log2(prediction / truth)) <= 1 for prediction, truth in pairs)


def main() -> None:
    print("| verification | predicted, % | 90% interval | measured, % | ratio | inside | printed |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for verified in verifications():
        rows.append(compare(verified))
        print(rows[-1].markdown(), flush=True)
    predictions, measured = [row.predicted for row in rows], [row.measured for row in rows]
    inside = sum(row.low <= row.measured <= row.high for row in rows)
    numbers = sum(row.printed[0].isdigit() for row in rows)
    print(
        f"\nWithin a factor of two: {within_two(predictions, measured)} of {len(rows)}; inside the interval: {inside};"
    )
    print(f"printed as a number: {numbers}.")
    shifted = [within_two(np.roll(predictions, shift).tolist(), measured) for shift in range(1, len(rows))]
    print(f"Control, with the prediction of another verification: {np.mean(shifted):.1f} of {len(rows)}.")


if __name__ == "__main__":
    main()
