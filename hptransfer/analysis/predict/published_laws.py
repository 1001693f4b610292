"""Published laws of learning rate and batch size of language models.

Units differ and cause most disagreements. N is the number of non-embedding parameters (Porian: with the head) and D
that of tokens. Laws in FLOPs use C = 6 N D. Batch sizes are in tokens, losses in nats. Each law names its paper. The
law of token horizons
(arXiv:2409.19913) is left out: its exponents are known, but the units of its constant are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hptransfer.analysis.tables.arrays import Axes
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.quantities import quantity_of

LawFunction = Callable[[float, float], float]


@dataclass(frozen=True)
class PublishedLaw:
    """Laws of one study, as functions of parameters and tokens.

    Attributes:
        rate, batch_tokens: None if the study lacks the law.
        batch_by_loss: batch size in tokens as a function of the loss, in nats; None if the study lacks it.
    """

    name: str
    source: str
    rate: LawFunction | None = None
    batch_tokens: LawFunction | None = None
    batch_by_loss: Callable[[float], float] | None = None


PUBLISHED = (
    PublishedLaw(
        "Step Law",
        "arXiv:2503.04715",
        lambda n, d: 1.79 * n**-0.713 * d**0.307,
        lambda n, d: 0.58 * d**0.571,
    ),
    PublishedLaw(
        "DeepSeek LLM",
        "arXiv:2401.02954",
        lambda n, d: 0.3118 * (6 * n * d) ** -0.1250,
        lambda n, d: 0.2920 * (6 * n * d) ** 0.3271,
    ),
    PublishedLaw("Porian", "arXiv:2406.19146", lambda n, d: 3.7 * n**-0.36, lambda n, d: 0.7576 * n**0.703),
    PublishedLaw(
        "Moonlight",
        "arXiv:2502.16982",
        lambda n, d: 0.0127339 * (6 * n * d) ** -0.0574752,
        lambda n, d: 0.0065202 * (6 * n * d) ** 0.4137915,
    ),
    PublishedLaw("Zhou", "arXiv:2601.05049", lambda n, d: 38.46 * n**-0.222 * d**-0.351),
    PublishedLaw(
        "Kaplan",
        "arXiv:2001.08361",
        lambda n, d: 0.003239 - 0.0001395 * math.log(n),
        batch_by_loss=lambda loss: 2e8 / loss**4.76,
    ),
    PublishedLaw("MiniCPM", "arXiv:2404.06395", batch_by_loss=lambda loss: 1.21e9 / loss**6.24),
    PublishedLaw("Power Lines", "arXiv:2505.13738", None, lambda n, d: 2048 * 0.0306 * d**0.383),
    PublishedLaw("Critical batch (Zhang)", "arXiv:2410.21676", None, lambda n, d: 22.9 * d**0.47),
)


def published_laws_apply(columns: Columns) -> bool:
    """Return True if published laws apply to the columns."""
    quantities = {quantity_of(name) for name in columns.scales}
    return {"params", "tokens"} <= quantities and any(quantity_of(name) in ("rate", "batch") for name in columns.tuned)


def published_predictions(columns: Columns, scale: Axes, loss: float | None = None) -> dict[str, dict[str, float]]:
    """Return the prediction of each study for a scale.

    Args:
        loss: nats at the optimum; without it, laws in the loss are left out.

    Returns:
        `learning_rate` and `batch_tokens` by the study's name.
    """
    size = {quantity_of(name): scale[name] for name in columns.scales}
    n, d = size["params"], size["tokens"]
    by_study = {}
    for law in PUBLISHED:
        predictions = {"learning_rate": law.rate(n, d)} if law.rate else {}
        if law.batch_tokens:
            predictions["batch_tokens"] = law.batch_tokens(n, d)
        elif law.batch_by_loss and loss is not None:
            predictions["batch_tokens"] = law.batch_by_loss(loss)
        by_study[law.name] = predictions
    return {name: predictions for name, predictions in by_study.items() if predictions}
