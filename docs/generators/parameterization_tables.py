"""Generator of the tables of docs/parameterizations.md.

They come from the code and from the file of measured slopes. Run it in the checkout:
`python -m docs.generators.parameterization_tables docs/coordinate_checks.csv`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import hptransfer.parameterizations as laws
from docs.generators.measured_checks import measured_markdown, read_measured
from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role, ShapePower, UpdateLaw

LAWS: dict[str, UpdateLaw] = {
    "sgd": laws.RAW,
    "adamw, adam_atan2, lion": laws.ENTRYWISE,
    "adafactor": laws.RELATIVE,
    "muon": laws.SPECTRAL_RMS,
    "shampoo": laws.SPECTRAL,
    "kfac": laws.INVERSE_CURVATURE,
}
COLUMNS = ("multiplier", "init std", *LAWS, "epsilon", "decay")
# Optimizers of matrices leave vectors to AdamW.
OF_MATRICES = (laws.SPECTRAL, laws.SPECTRAL_RMS, laws.INVERSE_CURVATURE)


def markdown() -> str:
    """Return one section per parameterization: powers of the width by role.

    A section names its source.
    """
    return "\n".join(line for name in PARAMETERIZATIONS.names() for line in _section(name))


def _section(name: str) -> Iterator[str]:
    table = PARAMETERIZATIONS.get(name)
    yield f"## {name}"
    yield ""
    yield PARAMETERIZATIONS.summary(name)
    yield f"Source: {table.source}."
    yield ""
    alignments: tuple[float | None, ...] = (None,) if not table.global_rate else (None, laws.FULL_ALIGNMENT)
    for alignment in alignments:
        if table.global_rate:
            yield "One rate for all roles (`run.alignment=default`):" if alignment is None else "`run.alignment=full`:"
            yield ""
        yield f"| role | {' | '.join(COLUMNS)} |"
        yield f"|---|{'---|' * len(COLUMNS)}"
        for role in Role:
            yield f"| {role.value} | {' | '.join(_cells(table, role, alignment))} |"
        yield ""
    if table.lookup is not None:
        yield f"The learning rate of embeddings: {_fraction(table.lookup)}."
        yield ""


def _cells(table: Parameterization, role: Role, alignment: float | None) -> Iterator[str]:
    yield _fraction(table.multiplier(role))
    yield _fraction(table.init_std(role))
    for law in LAWS.values():
        as_matrix = role in laws.MATRICES and (law != laws.SPECTRAL_RMS or role is Role.HIDDEN)
        used = law if as_matrix or law not in OF_MATRICES else laws.ENTRYWISE
        has_rule = not table.laws or law in table.laws
        yield _fraction(table.learning_rate(role, used, alignment)) if has_rule else "no rule"
    yield _fraction(table.epsilon(role, alignment))
    yield _fraction(-table.learning_rate(role, laws.ENTRYWISE, alignment))


def _fraction(power: ShapePower) -> str:
    return str(Fraction(power.total).limit_denominator(100))


if __name__ == "__main__":
    print(markdown() + measured_markdown(read_measured(Path(sys.argv[1]))), end="")
