"""Movement of the optimum of residual nets over width and depth.

    python benchmarks/depthwise_transfer.py [--nets resmlp resnet vit] [--runs runs] [--out docs]

It makes the table and the figure of docs/depthwise_transfer.md. sweeps/depthwise_transfer.yaml sweeps each net under
each of its rules; existing run folders are resumed. Then it sweeps the momentum and the branch multiplier of the
residual MLP under 1/sqrt(depth). The table has the exponents with their 90% intervals and the expectation of theory
(Bordelon et al., arXiv:2309.16620). The exit code is 1 unless all expectations are met.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.exponents import Exponent
from hptransfer.analysis.laws.fit import Fit, fit_table
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.sources import load_table
from hptransfer.core.errors import EXIT_DONE, EXIT_NO_LAW

AXES = ("width", "depth")
CENTERS = {
    "resmlp": {"width": 64, "depth": 6},
    "resnet": {"width": 32, "depth": 3},
    "vit": {"width": 32, "depth": 3},
}
BAND = 0.25
"""Octaves of the optimum per octave of width or depth within which the optimum stays."""


@dataclass(frozen=True)
class Claim:
    """Expected exponents of one sweep.

    Attributes:
        width, depth: "stays": the exponent is within BAND of zero. "falls", "rises": the whole interval is beyond it.
            "below -1" and "above 0.25" concern the exponent itself, or its bound. Empty: the axis is not swept.
        space: tuned hyperparameter, if not the learning rate.
    """

    net: str
    rule: str
    width: str = ""
    depth: str = ""
    space: str = ""

    @property
    def name(self) -> str:
        return "-".join(part for part in ("depthwise", self.net, self.rule, self.space) if part)

    def overrides(self) -> Iterator[str]:
        """Yield the overrides of the sweep.

        An axis without a claim has its center alone.
        """
        yield f"net={self.net}"
        yield f"rule={self.rule}"
        if self.space:
            yield f"space={self.space}"
        for axis, claimed in zip(AXES, (self.width, self.depth), strict=True):
            if not claimed:
                yield f"grid.{axis}.values=[{CENTERS[self.net][axis]}]"


CLAIMS = [
    Claim("resmlp", "sqrt_depth", width="stays", depth="stays"),
    Claim("resmlp", "sp", width="falls", depth="below -1"),
    Claim("resmlp", "mup", depth="below -1"),
    Claim("resmlp", "inverse_depth", depth="above 0.25"),
    Claim("resmlp", "sqrt_depth", width="stays", depth="stays", space="momentum"),
    Claim("resmlp", "sqrt_depth", width="stays", depth="stays", space="branch"),
    Claim("resnet", "sqrt_depth", width="stays", depth="stays"),
    Claim("resnet", "sp", width="falls"),
    Claim("resnet", "mup", depth="falls"),
    Claim("resnet", "inverse_depth", depth="rises"),
    Claim("vit", "sqrt_depth", width="stays", depth="stays"),
    Claim("vit", "sp", width="falls"),
    Claim("vit", "mup", depth="falls"),
    Claim("vit", "sqrt_depth_alone", depth="falls"),
]


def found(claimed: str, exponent: Exponent, bound: float | None) -> bool:
    """Return whether an exponent is as claimed."""
    if claimed == "stays":
        return abs(exponent.value) <= BAND
    if claimed == "below -1":
        return (exponent.value if bound is None else bound) < -1
    if claimed == "above 0.25":
        return exponent.value > 0.25
    return exponent.high < -BAND if claimed == "falls" else exponent.low > BAND


def sweep(claim: Claim, runs: Path) -> Path:
    """Run one sweep through the command line, and return its folder."""
    words = ["sweep", "depthwise_transfer", *claim.overrides(), f"name={claim.name}", f"runs={runs}", "tracker=none"]
    done = subprocess.run([sys.executable, "-m", "hptransfer.cli.main", *words], check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (EXIT_DONE, EXIT_NO_LAW):  # a law over both axes at once may not exist
        sys.exit(done.returncode)
    return runs / claim.name


def rows(claim: Claim, folder: Path) -> Iterator[dict[str, object]]:
    """Yield a row for each axis, with its exponent and verdict.

    The other axis is at its center.
    """
    (tuned,) = json.loads((folder / "target.json").read_text(encoding="utf-8"))["tuned"]
    columns = Columns(scales=AXES, tuned=(tuned,))
    table = load_table(folder / "records.csv", columns)
    for axis, other, claimed in (("width", "depth", claim.width), ("depth", "width", claim.depth)):
        if not claimed:
            continue
        fit = fit_table(table[table[other] == CENTERS[claim.net][other]], columns)
        exponent = fit.exponents[tuned][axis]
        yield {
            "net": claim.net,
            "rule": claim.rule,
            "tuned": tuned,
            "axis": axis,
            "value": exponent.value,
            "low": exponent.low,
            "high": exponent.high,
            "bound": (bound := bound_above(fit, axis)),
            "unbracketed": sum(not one.bracketed for one in fit.optima),
            "expected": claimed,
            "found": found(claimed, exponent, bound),
        }


def bound_above(fit: Fit, axis: str) -> float | None:
    """Return an upper bound of the exponent where divergence replaces brackets.

    It is the slope of a line through all scales. A scale without a bracket enters with its smallest diverged value, as
    its optimum is below. None if all optima are bracketed, or if a scale without a bracket has no diverged value.
    """
    bracketed = [one.bracketed for one in fit.optima]
    if all(bracketed) or not all(one.bracketed or one.diverged for one in fit.optima):
        return None
    tops = [float(one.x[0]) if one.bracketed else _least_diverged(fit, place) for place, one in enumerate(fit.optima)]
    return float(np.polyfit(np.log2([one.axes[axis] for one in fit.optima]), tops, 1)[0])


def _least_diverged(fit: Fit, place: int) -> float:
    """Return log2 of the smallest diverged value of a scale."""
    return float(fit.runs.x[fit.runs.of_scale(place) & ~np.isfinite(fit.runs.loss), 0].min())


def shown(row: dict[str, object]) -> str:
    interval = f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    words = [f"{row['net']:<7}{row['rule']:<17}{row['tuned']:<11}{row['axis']:<6} {interval:<23}"]
    words.append(f"expected: {row['expected']:<15}{'found' if row['found'] else 'NOT FOUND'}")
    if row["unbracketed"]:
        below = "" if row["bound"] is None else f": with them below {row['bound']:+.2f}"
        words.append(f"({row['unbracketed']} without a bracket{below})")
    return " ".join(words)


def figure(claims: list[Claim], runs: Path, path: Path) -> None:
    """Draw log2 of the best learning rate over width and over depth.

    Each net has a row of plots, each rule a line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    nets = sorted({claim.net for claim in claims}, key=[claim.net for claim in claims].index)
    canvas, axes = plt.subplots(len(nets), 2, figsize=(9, 2.9 * len(nets)), squeeze=False, layout="constrained")
    styles = {
        "sqrt_depth": ("C0", "o"),
        "sp": ("C3", "s"),
        "mup": ("C1", "D"),
        "inverse_depth": ("C2", "^"),
        "sqrt_depth_alone": ("C4", "x"),
    }
    for claim in claims:
        if claim.space:
            continue
        colour, marker = styles[claim.rule]
        optima = pd.read_csv(runs / claim.name / "optima.csv")
        for column, (axis, other) in enumerate((AXES, AXES[::-1])):
            plot = axes[nets.index(claim.net)][column]
            line = optima[optima[other] == CENTERS[claim.net][other]].sort_values(axis)
            if len(line) == 1:
                continue
            held = line["lr_status"] == "bracketed"
            plot.errorbar(
                line[axis][held],
                line["log2_lr"][held],
                line["log2_lr_se"][held],
                fmt=f"{marker}-",
                ms=5,
                capsize=2,
                color=colour,
                label=claim.rule,
            )
            plot.plot(line[axis][~held], line["log2_lr"][~held], "v", ms=6, mfc="none", color=colour)
            title = f"{claim.net}, {axis} at {other} {CENTERS[claim.net][other]}"
            plot.set(xscale="log", title=title, ylabel="log2 of the best lr")
            plot.set_xticks(sorted(line[axis]), [f"{value:g}" for value in sorted(line[axis])])
            plot.minorticks_off()
            plot.grid(alpha=0.3)
    for plot in axes.flat:
        plot.legend(fontsize=8)
    canvas.savefig(path, dpi=110)
    print(f"written: {path} (open triangles: no bracket, the best value that was tried)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resmlp", "resnet", "vit"], choices=["resmlp", "resnet", "vit"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    claims = [claim for claim in CLAIMS if claim.net in arguments.nets]
    table: list[dict[str, object]] = []
    for claim in claims:
        for row in rows(claim, sweep(claim, arguments.runs)):
            table.append(row)
            print(shown(row), flush=True)
    pd.DataFrame(table).round(4).to_csv(arguments.out / "depthwise_transfer.csv", index=False)
    figure(claims, arguments.runs, arguments.out / "depthwise_transfer.png")
    sys.exit(not all(row["found"] for row in table))


if __name__ == "__main__":
    main()
