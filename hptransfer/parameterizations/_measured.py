"""What the coordinate checks of all combinations found, and which combinations are claimed to pass.

Measured by benchmarks/coordinate_checks.py into docs/coordinate_checks.csv; shown in docs/parameterizations.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.files import write_text

ALL = ("adafactor", "adam_atan2", "adamw", "kfac", "lion", "muon", "sgd", "shampoo")
CLAIMS: dict[str, dict[str, tuple[str, ...]]] = {
    "mup": {"mlp": ALL, "transformer": ALL},
    "mfp": {"mlp": ("adamw", "sgd"), "transformer": ("adamw", "sgd")},
    "umup": {"mlp": ("adamw", "sgd"), "transformer": ("adamw", "sgd")},
}
"""Optimizers by parameterization and model whose coordinate check passes; the tests hold every one to it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One combination's check, with the settings that `hptransfer coord-check` takes by itself.

    Attributes:
        slope: the steepest of those that must be flat; `where`, its module and step.
        expected: why theory expects a failure; empty if it does not.
    """

    model: str
    optimizer: str
    parameterization: str
    slope: float
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
        """A letter for what the table's legend explains."""
        if self.passed:
            return "**P**" if self.claimed else "p"
        return "x" if self.expected else "**F**" if self.claimed else "f"


LEGEND = """\
The steepest slope of each combination's coordinate check (`hptransfer coord-check run/model=MODEL run/optimizer=OPTIMIZER
run.parameterization=PARAMETERIZATION`): **P** passes, and is claimed to: the tests hold it to that. p passes, not claimed.
x fails, as theory expects (the reasons stand below). f fails, not claimed and not expected.
"""


def claims() -> Iterator[tuple[str, str, str]]:
    """Model, optimizer and parameterization of every claim."""
    for parameterization, models in CLAIMS.items():
        for model, optimizers in models.items():
            for optimizer in optimizers:
                yield model, optimizer, parameterization


def read_measured(path: Path) -> list[Measured]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Measured(**{**row, "slope": float(row["slope"]), "passed": row["passed"] == "yes"})
            for row in csv.DictReader(file)
        ]


def write_measured(path: Path, rows: Iterable[Measured]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Measured.__dataclass_fields__)
    for row in sorted(rows, key=lambda row: row.key):
        writer.writerow([*row.key, f"{row.slope:+.2f}", row.where, "yes" if row.passed else "no", row.expected])
    write_text(path, text.getvalue())


def measured_markdown(rows: list[Measured]) -> str:
    """A table a model, a row a parameterization; and why what fails does."""
    lines = ["## Measured", "", *LEGEND.splitlines(), ""]
    by_key = {row.key: row for row in rows}
    models, optimizers, names = (sorted({row.key[place] for row in rows}) for place in range(3))
    for model in models:
        lines += [f"### {model}", "", f"| | {' | '.join(optimizers)} |", f"|---|{'---|' * len(optimizers)}"]
        for name in names:
            cells = (by_key.get((model, optimizer, name)) for optimizer in optimizers)
            lines.append(f"| {name} | {' | '.join(f'{one.slope:+.2f} {one.mark}' if one else '' for one in cells)} |")
        lines.append("")
    lines += ["### Why", ""]
    lines += [f"- {reason}" for reason in sorted({row.expected for row in rows if not row.passed and row.expected})]
    lines += [
        f"- {row.parameterization}, {row.optimizer}, {row.model}: steepest at {row.where}"
        for row in rows
        if not row.passed and not row.expected
    ]
    return "\n".join([*lines, ""])
