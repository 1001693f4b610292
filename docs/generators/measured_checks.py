"""Measured coordinate checks of all combinations, and claims of which pass.

benchmarks/coordinate_checks.py measures them into docs/coordinate_checks.csv. docs/parameterizations.md shows them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.io import write_text

ALL = ("adafactor", "adam_atan2", "adamw", "kfac", "lion", "muon", "sgd", "shampoo")
NO_KFAC = tuple(name for name in ALL if name != "kfac")
CLAIMS: dict[str, dict[str, tuple[str, ...]]] = {
    "mup": {"mlp": ALL, "resmlp": ALL, "transformer": ALL, "vit": NO_KFAC, "resnet": NO_KFAC},
    "mfp": {"mlp": ("adamw", "sgd"), "transformer": ("adamw", "sgd")},
    "umup": {"mlp": ("adamw", "sgd"), "transformer": ("adamw", "sgd")},
}
"""Optimizers whose coordinate check passes, by parameterization and model; tests check every one."""

KFAC_RANK = (
    "In a layer that is used at many positions, the gradients of the outputs span more directions in wider nets, up to "
    "examples times positions. The largest eigenvalue of their factor, of which the damping is a share, falls faster "
    "than the factor's trace, and steps grow."
)
UNEXPECTED: dict[tuple[str, str], str] = {
    ("moe", "adafactor"): "The router's initial values fall to Adafactor's floor, which does not depend on width.",
    (
        "moe",
        "lion",
    ): "At the fifth change (steps=5) the slope is -0.03. With experts that start at zero no slope is steeper than 0.1 "
    "from the third change on (mixture-of-experts.md).",
    (
        "moe",
        "muon",
    ): "At the fifth change (steps=5) the slope is -0.04. With experts that start at zero no slope is steeper than 0.1 "
    "from the third change on (mixture-of-experts.md).",
    (
        "moe",
        "sgd",
    ): "A router's gradient shrinks as n^-1/2 while the random part of its experts outweighs the learned part. With "
    "experts that start at zero the router's own change keeps its size (mixture-of-experts.md).",
    ("resnet", "kfac"): f"{KFAC_RANK} From 16 to 128 channels the first convolution's factor goes from 7 directions to "
    "33 (trace squared over the sum of squares), its largest eigenvalue as n^-1.5, its trace as n^-0.96. With a single "
    "image (`run.batch=1 'widths=[32,64,128]' steps=1 seeds=4`) the check passes (+0.13; with 32 images +0.47). With "
    "damping as a share of the trace, which is not offered, 0.5 makes the convolutions flat, within 0.06.",
    ("vit", "kfac"): f"{KFAC_RANK} From width 64 to 512 the patches' factor goes from 9 directions to 19, its largest "
    "eigenvalue as n^-1.36, its trace as n^-1.08. With damping as a share of the trace, which is not offered, 0.5 "
    "gives the patches -0.07.",
}
"""Explanations of failures that theory does not expect, by model and optimizer."""
PASSES_ANYWAY: dict[tuple[str, str], str] = {
    ("moe", "ntk"): "the nets are too narrow; over widths of 256 to 1024 the readout's first change grows under sgd "
    "(+0.32), and the check fails",
    (
        "transformer",
        "ntk",
    ): "the growth that theory expects does not show at widths of 64 to 256, with 256 outputs; the "
    "failures under adamw, adam_atan2 and lion are of slopes that shrink. Over 256 to 1024 the readout's first change "
    "grows under sgd (+0.37), and the check fails",
    (
        "vit",
        "ntk",
    ): "the nets are too narrow; over widths of 128 to 512 the readout's change grows under muon (+0.33), and "
    "the check fails",
}
"""Reasons why checks pass that theory expects to fail, by model and parameterization; they do not claim transfer."""
NOTES = tuple(f"{name} on {model}, e: {why}." for (model, name), why in PASSES_ANYWAY.items())
"""Notes below the tables."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCheck:
    """Check of one combination with the default settings of `hptransfer coord-check`.

    Attributes:
        slope: steepest slope that must be flat, minus the prescribed slope; None if the combination is refused.
        where: module and step of that slope.
        expected: why theory expects a failure, empty if it does not; or why the combination is refused.
    """

    model: str
    optimizer: str
    parameterization: str
    slope: float | None
    where: str
    passed: bool
    expected: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.optimizer, self.parameterization

    @property
    def claimed(self) -> bool:
        return self.optimizer in CLAIMS.get(self.parameterization, {}).get(self.model, ())

    @property
    def mark(self) -> str:
        """Slope and letter, explained in the tables' legend."""
        if self.slope is None:
            return "-"
        if self.passed:
            letter = "**P**" if self.claimed else "e" if self.expected else "p"
        else:
            letter = "x" if self.expected else "**F**" if self.claimed else "f"
        return f"{self.slope:+.2f} {letter}"


LEGEND = """\
The steepest slope of each combination's coordinate check over its first 3 steps, `hptransfer coord-check
run/model=MODEL run/optimizer=OPTIMIZER run.parameterization=PARAMETERIZATION`. At most 0.1 passes on the MLP at widths
of 256 and more, 0.2 elsewhere. **P** passes as claimed: the tests check it. p passes without a claim. e passes at these
widths although theory expects that wide nets fail: no transfer is claimed. x fails, as theory expects. f fails, neither
claimed nor expected. - is refused. Embeddings under umup must have slope -1/2, as it prescribes.
"""


def claims() -> Iterator[tuple[str, str, str]]:
    """Yield model, optimizer and parameterization of every claim."""
    for parameterization, models in CLAIMS.items():
        for model, optimizers in models.items():
            for optimizer in optimizers:
                yield model, optimizer, parameterization


def read_measured(path: Path) -> list[MeasuredCheck]:
    """Read measured checks from a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: dict[str, str]) -> MeasuredCheck:
    return MeasuredCheck(
        model=row["model"],
        optimizer=row["optimizer"],
        parameterization=row["parameterization"],
        slope=float(row["slope"]) if row["slope"] else None,
        where=row["where"],
        passed=row["passed"] == "yes",
        expected=row["expected"],
    )


def write_measured(path: Path, rows: Iterable[MeasuredCheck]) -> None:
    """Write measured checks to a CSV file, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MeasuredCheck.__dataclass_fields__)
    for row in sorted(rows, key=lambda row: row.key):
        slope = "" if row.slope is None else f"{row.slope:+.2f}"
        writer.writerow([*row.key, slope, row.where, "yes" if row.passed else "no", row.expected])
    write_text(path, text.getvalue())


def measured_markdown(rows: list[MeasuredCheck]) -> str:
    """Return one table per model, and the reasons of failures.

    A table has one row per parameterization.
    """
    lines = ["## Measured", "", *LEGEND.splitlines(), ""]
    by_key = {row.key: row for row in rows}
    models, optimizers, names = (sorted({row.key[index] for row in rows}) for index in range(3))
    for model in models:
        lines += [f"### {model}", "", f"| | {' | '.join(optimizers)} |", f"|---|{'---|' * len(optimizers)}"]
        for name in names:
            cells = (by_key.get((model, optimizer, name)) for optimizer in optimizers)
            lines.append(f"| {name} | {' | '.join(check.mark if check else '' for check in cells)} |")
        lines.append("")
    failed = [row for row in rows if not row.passed and row.slope is not None]
    lines += ["### Why", ""]
    lines += [f"- {reason}." for reason in sorted({row.expected for row in failed if row.expected})]
    lines += [f"- {note}" for note in NOTES]
    refused = sorted({row.expected for row in rows if row.slope is None})
    lines += [f"- Refused: `{reason}`." for reason in refused]
    unexpected: dict[tuple[str, str, str], list[str]] = {}
    for row in failed:
        if not row.expected:
            unexpected.setdefault((row.model, row.optimizer, row.where), []).append(row.parameterization)
    for (model, optimizer, where), names in unexpected.items():
        explanation = UNEXPECTED.get((model, optimizer), "")
        lines.append(
            f"- {model} with {optimizer} under {', '.join(names)}: farthest off at {where}. {explanation}".rstrip()
        )
    return "\n".join([*lines, ""])
