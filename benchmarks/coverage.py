"""Coverage of the 90% interval, on problems with a known optimum.

    python -m benchmarks.coverage [--sweeps 500] [--processes 2] [--bent]

The optimum is the target's best learning rate. Every sweep draws a problem of its kind, a grid of rates at every scale
and the noise of the losses (tests/support/objectives.py). The target lies one to five octaves beyond the swept scales.
"without": all forms of law except those that generated the data. "power": the power law alone. "scatter": each scale's
own optimum deviates from the problem's by a normal of 0.1 octaves, as in nets, and the truth is the target's own. These
two use a fifth of the sweeps.

Three more tables have bent laws, breaks beyond the data, and awkward responses and grids
(tests/support/bent_sweeps.py), at two fifths of the sweeps. Their intervals are those of `analyze`, widened by the
rehearsal. "oracle" is the width of the posterior of a law that is known to be exact: the same priors of its
coefficients, the scales' optima with their own errors, no scatter, form or response surface to be found. Risk: the
share of targets at which the recommended value loses less than the bound that is printed as "with 90% probability". The
last table has exponents: from theory, of the exact optima of the swept scales, and as fitted.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit, fit_table
from hptransfer.analysis.laws.forms import default_laws
from hptransfer.analysis.laws.model_averaging import Component, ModelAverage
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.validation import rehearse, widened
from hptransfer.analysis.statistics.linear_model import OptimaLikelihood, solve
from hptransfer.analysis.tables.arrays import Axes
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import FitError
from tests.support.bent_sweeps import BOWLS, HEIGHT, simulate_bowls
from tests.support.bent_sweeps import KINDS as BOWL_KINDS
from tests.support.objectives import KINDS, simulate
from tests.support.quadratics import best_rate, lms_loss, power_law, power_law_loss, sign_best_rate

NOISE, SCATTER = 0.004, 0.1
# Problems of a kind, among which the sweeps are divided.
SETTINGS = 50
# Forms of law that generated the data, exactly or in the limit of large scales.
GENERATING = {"H.1": ("drift", "saturating"), "H.2": ("power",), "H.3": ("saturating",), "H.6": ("power", "drift")}
# Offered forms of law, scatter of scales, and divisor of the number of sweeps; the goal concerns the first two.
CASES = (("all", 0.0, 1), ("without", 0.0, 1), ("power", 0.0, 5), ("all", SCATTER, 5))
# Curvatures of the bent laws, octaves per octave squared, and the scatter of an exact law.
BENDS, NO_SCATTER = (0.0, 0.03, -0.03, 0.06, -0.06), 1e-3
# Breaks of the law beyond the data, octaves per octave: no run shows them, and the interval does not cover them.
BREAKS = (0.3, -0.3)
# The prediction with its interval, and the truth.
Row = tuple[float, float, float, float]
Loss = Callable[[float], float]


def laws_of(kind: str, offered: str) -> tuple[str, ...]:
    """Return the laws of a case: "all", "without" or "power"."""
    if offered == "power":
        return ("power",)
    return tuple(law for law in default_laws() if offered == "all" or law not in GENERATING[kind])


def one_setting(kind: str, sweeps: int, setting: int) -> list[list[Row]]:
    """Return the rows of all cases for the sweeps of one problem."""
    return [
        [_row(kind, setting, seed, offered, scatter) for seed in range(len(range(setting, sweeps // share, SETTINGS)))]
        for offered, scatter, share in CASES
    ]


def _row(kind: str, setting: int, seed: int, offered: str, scatter: float) -> Row:
    """Return prediction, interval and truth; NaN if the runs do not suffice."""
    sweep = simulate(kind, setting, seed, noise=NOISE, scatter=scatter)
    try:
        fit = fit_table(sweep.table, sweep.columns, laws=laws_of(kind, offered), draws=500)
    except FitError:
        return math.nan, math.nan, math.nan, sweep.truth
    value, low, high = fit.predict(sweep.target)[0]
    return value, low, high, sweep.truth


def summary(rows: Sequence[Row]) -> str:
    """Return the cells of one case."""
    answered = [row for row in rows if math.isfinite(row[0])]
    value, low, high, truth = np.array(answered).T
    inside = (low <= truth) & (truth <= high)
    error = math.sqrt(float(np.mean((value - truth) ** 2)))
    return f"{inside.mean():.1%} | {error:.3f} | {np.median(high - low):.3f} | {len(answered)} of {len(rows)}"


@dataclass(frozen=True)
class Bent:
    """A simulated sweep's prediction of its target.

    Attributes:
        center, low, high: of the optimum, log2.
        oracle: width of the oracle's interval, octaves.
        held: True if the recommended value loses less than the bound on the risk.
    """

    center: float
    low: float
    high: float
    truth: float
    oracle: float
    held: bool


def one_bowl(kind: str, scales: int, out: float, bend: float, broken: float, seed: int) -> Bent | None:
    """Return the prediction of one sweep; None if it is refused."""
    sweep = simulate_bowls(kind, seed, scales=scales, out=out, bend=bend, broken=broken)
    try:
        fit = fit_table(sweep.table, sweep.columns, draws=1)
    except FitError:
        return None
    fit = widened(fit, rehearse(fit))
    decision = decide(fit, sweep.target)
    u = np.array([decision.value[0] - sweep.truth])
    if len(decision.value) > 1:
        u = u - 0.4 * (decision.value[1] - 6)
    bowl = BOWLS.get(kind, BOWLS["unequal sides"])
    excess = float(bowl(u, round(scales - 1 + out)).item())
    if len(decision.value) > 1:
        excess += 0.5 * HEIGHT * (decision.value[1] - 6) ** 2
    return Bent(
        center=float(decision.center[0]),
        low=float(decision.low[0]),
        high=float(decision.high[0]),
        truth=sweep.truth,
        oracle=oracle_width(fit, sweep.target),
        held=100 * math.expm1(excess) <= decision.p90_percent,
    )


def oracle_width(fit: Fit, target: Axes) -> float:
    """Return the interval's width under an exact law, octaves."""
    errors, optima = (np.array([getattr(optimum, name)[0] for optimum in fit.optima]) for name in ("se", "x"))
    likelihood = OptimaLikelihood(np.diag(errors**-2.0), optima / errors**2, 1)
    problem = replace(fit.problem, tuned=fit.problem.tuned[:1], centre=fit.problem.centre[:1])
    variant = problem.power()
    posterior = solve(likelihood, problem.linear(variant), [(NO_SCATTER,)])
    component = Component(variant, problem.linear(variant), 0, posterior.weights, posterior)
    low, high = ModelAverage.of([component], 1, 0).quantiles(target, (0.05, 0.95))[0]
    return float(high - low)


def bowl_summary(found: Sequence[Bent | None]) -> str:
    """Return the cells of a row of bent or awkward sweeps."""
    answered = [one for one in found if one is not None]
    inside = np.mean([one.low <= one.truth <= one.high for one in answered])
    error = math.sqrt(float(np.mean([(one.center - one.truth) ** 2 for one in answered])))
    width = np.median([one.high - one.low for one in answered])
    ratio = np.median([(one.high - one.low) / one.oracle for one in answered])
    held = np.mean([one.held for one in answered])
    cells = f"{inside:.1%} | {error:.3f} | {width:.3f} | {ratio:.2f} | {held:.0%}"
    return f"{cells} | {len(answered)} of {len(found)}"


def bowl_rows(pool: ProcessPoolExecutor, sweeps: int) -> Iterator[str]:
    """Yield the tables of bent laws and of awkward responses and grids."""
    head = "coverage | RMSE, octaves | median width, octaves | over the oracle's | risk holds | answered |"
    yield f"| curvature | scales | octaves out | {head}\n|---|---|---|---|---|---|---|---|---|"
    for bend, scales, out in itertools.product(BENDS, (4, 6, 8), (1.0, 3.0)):
        found = pool.map(partial(one_bowl, "unequal sides", scales, out, bend, 0.0), range(sweeps), chunksize=5)
        yield f"| {bend:+g} | {scales} | {out:g} | {bowl_summary(list(found))} |"
    yield f"\n| change of the exponent beyond six scales | octaves out | {head}\n|---|---|---|---|---|---|---|---|"
    for broken, out in itertools.product(BREAKS, (1.0, 3.0)):
        found = pool.map(partial(one_bowl, "unequal sides", 6, out, 0.0, broken), range(sweeps), chunksize=5)
        yield f"| {broken:+g} | {out:g} | {bowl_summary(list(found))} |"
    yield f"\n| response or grid, five scales | octaves out | {head}\n|---|---|---|---|---|---|---|---|"
    for kind, out in itertools.product(BOWL_KINDS, (0.0, 1.0)):
        found = pool.map(partial(one_bowl, kind, 5, out, 0.0, 0.0), range(sweeps), chunksize=5)
        yield f"| {kind} | {out:g} | {bowl_summary(list(found))} |"


def known_exponents() -> Iterator[tuple[str, dict[str, float], dict[tuple[int, ...], Loss]]]:
    """Yield problems with known exponents: name, exponents, loss of every scale."""
    widths = {
        (width, steps): partial(lms_loss, dimensions=width, batch=2, steps=steps, noise_variance=0.0)
        for width in (64, 128, 256, 512)
        for steps in (128, 256)
    }
    yield "H.1, noiseless, width far above batch", {"width": -1.0, "steps": 0.0}, widths
    for target, steps_power, batch_power in ((0.5, -0.4, 0.6), (1.0, -0.5, 0.5)):
        spectrum, start = power_law(1000, 1.5), power_law(1000, target)
        quadratics = {
            (steps, batch): partial(
                power_law_loss, spectrum=spectrum, start=start, batch=batch, steps=steps, noise_variance=1.0
            )
            for steps in (512, 1024, 2048)
            for batch in (1, 4, 16)
        }
        yield f"H.2, s = {target:g}", {"steps": steps_power, "batch": batch_power}, quadratics
    theta = 0.1 * np.random.default_rng(0).standard_normal(400)
    signs = {(batch,): _signed(theta, batch) for batch in (1, 2, 4, 8, 16, 32)}
    yield "H.3, small batches", {"batch": 0.5}, signs
    powers = {(width, tokens): _parabola(width, tokens) for width in (64, 128, 256, 512) for tokens in (1, 2, 4)}
    yield "H.6", {"width": -0.6, "tokens": 0.2}, powers


def _signed(theta: np.ndarray, batch: int) -> Loss:
    best = sign_best_rate(theta, gradient_noise=9.0, batch=batch)
    return lambda rate: float(np.mean(theta**2)) / 2 - rate * best + rate**2 / 2


def _parabola(width: int, tokens: int) -> Loss:
    best = -7 - 0.6 * math.log2(width / 64) + 0.2 * math.log2(tokens)
    return lambda rate: 1.7 + 2 * (width / 64) ** -0.3 + tokens**-0.25 + 0.02 * (math.log2(rate) - best) ** 2


def exponent_rows() -> Iterator[str]:
    """Yield the rows of the table of exponents."""
    random = np.random.default_rng(0)
    for name, theory, losses in known_exponents():
        axes, rows, exact = list(theory), [], []
        for scale, loss in losses.items():
            best = math.log2(best_rate(loss, low=2.0**-16, high=4.0))
            exact.append(best)
            for x in best + random.uniform(-0.5, 0.5) + 0.5 * np.arange(-5, 6):
                value = loss(2.0**x) * math.exp(NOISE * random.standard_normal())
                rows.append({**dict(zip(axes, scale, strict=True)), "lr": 2.0**x, "loss": value})
        columns = Columns(scales=tuple(axes), tuned=("lr",))
        fitted = fit_table(check_table(pd.DataFrame(rows), columns, name), columns).exponents["lr"]
        logs = np.column_stack([np.ones(len(losses)), np.log2(list(losses))])
        slopes = np.linalg.lstsq(logs, np.array(exact), rcond=None)[0][1:]
        for axis, slope in zip(axes, slopes, strict=True):
            exponent = fitted[axis]
            covered = "yes" if exponent.low <= theory[axis] <= exponent.high else "no"
            shown = f"{exponent.value:+.3f} [{exponent.low:+.3f}, {exponent.high:+.3f}] | {covered}"
            yield f"| {name} | {axis} | {theory[axis]:+.2f} | {slope:+.3f} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    parser.add_argument("--bent", action="store_true", help="leave out the first table")
    arguments = parser.parse_args()
    settings = range(min(arguments.sweeps, SETTINGS))
    print("| problem | laws offered | scatter, octaves | coverage | RMSE, octaves | median width, octaves | answered |")
    print("|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for kind in KINDS if not arguments.bent else ():
            each = list(pool.map(partial(one_setting, kind, arguments.sweeps), settings))
            for case, (offered, scatter, _) in enumerate(CASES):
                rows = [row for by_case in each for row in by_case[case]]
                print(f"| {kind} | {offered} | {scatter:g} | {summary(rows)} |", flush=True)
        for line in bowl_rows(pool, 2 * arguments.sweeps // 5):
            print(line, flush=True)
    print("\n| problem | axis | theory | exact optima | fitted, 90% interval | covers theory |")
    print("|---|---|---|---|---|---|")
    for line in exponent_rows():
        print(line, flush=True)


if __name__ == "__main__":
    main()
