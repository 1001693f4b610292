"""Published laws of the learning rate and the batch size of language models, as references.

Units differ and are the source of most disagreement: N is non-embedding parameters (Porian: with the
head), D tokens, C = 6 N D training FLOPs where a law is in FLOPs, B tokens. Sources and how sure each
is: the science notes, C.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hptransfer.analysis import known
from hptransfer.analysis.records import Columns
from hptransfer.analysis.runs import Axes

Of = Callable[[float, float], float]


@dataclass(frozen=True)
class Published:
    """One study's laws, functions of parameters and tokens; None where it has none."""

    name: str
    source: str
    rate: Of | None
    batch_tokens: Of | None


PUBLISHED = (
    Published(
        "Step Law",
        "arXiv:2503.04715",
        lambda n, d: 1.79 * n**-0.713 * d**0.307,
        lambda n, d: 0.58 * d**0.571,
    ),
    Published(
        "DeepSeek LLM",
        "arXiv:2401.02954",
        lambda n, d: 0.3118 * (6 * n * d) ** -0.1250,
        lambda n, d: 0.2920 * (6 * n * d) ** 0.3271,
    ),
    Published("Porian", "arXiv:2406.19146", lambda n, d: 3.7 * n**-0.36, lambda n, d: 0.7576 * n**0.703),
    Published(
        "Moonlight",
        "arXiv:2502.16982",
        lambda n, d: 0.0127339 * (6 * n * d) ** -0.0574752,
        lambda n, d: 0.0065202 * (6 * n * d) ** 0.4137915,
    ),
    Published("Zhou", "arXiv:2601.05049", lambda n, d: 38.46 * n**-0.222 * d**-0.351, None),
    Published("Power Lines", "arXiv:2505.13738", None, lambda n, d: 2048 * 0.0306 * d**0.383),
    Published("Critical batch (Zhang)", "arXiv:2410.21676", None, lambda n, d: 22.9 * d**0.47),
)


def comparable(columns: Columns) -> bool:
    """Whether the columns say what the published laws are about."""
    kinds = {known.kind(name) for name in columns.scales}
    return {"params", "tokens"} <= kinds and any(known.kind(name) in ("rate", "batch") for name in columns.tuned)


def references(columns: Columns, scale: Axes) -> dict[str, dict[str, float]]:
    """What each study would train a scale with: by its name and `learning_rate`, `batch_tokens`."""
    size = {known.kind(name): scale[name] for name in columns.scales}
    found = {}
    for law in PUBLISHED:
        answers = {"learning_rate": law.rate, "batch_tokens": law.batch_tokens}
        found[law.name] = {key: of(size["params"], size["tokens"]) for key, of in answers.items() if of is not None}
    return found
