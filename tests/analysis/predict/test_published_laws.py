"""Published laws at the points where their studies, or we, have evaluated them."""

import pytest

from hptransfer.analysis.predict.published_laws import (
    PUBLISHED,
    PublishedLaw,
    published_laws_apply,
    published_predictions,
)
from hptransfer.analysis.tables.columns import Columns

COLUMNS = Columns(scales=("params", "tokens"), tuned=("learning_rate", "batch_size"))
# Values of the papers; DeepSeek's law is in training FLOPs, 6 N D.
KNOWN = [
    ("Step Law", 7e9, 1.4e12, "learning_rate", 9.17e-4),
    ("Step Law", 7e9, 1.4e12, "batch_tokens", 5.0e6),
    ("DeepSeek LLM", 1e9, 1e20 / 6e9, "learning_rate", 9.860e-4),
    ("DeepSeek LLM", 1e9, 1e20 / 6e9, "batch_tokens", 1.017e6),
    ("Porian", 1e9, 2e10, "learning_rate", 2.13e-3),
    ("Porian", 108e6, 20 * 108e6, "batch_tokens", 160 * 2048),
    ("Power Lines", 610e6, 20 * 610e6, "batch_tokens", 223 * 2048),
]


@pytest.mark.parametrize(("name", "params", "tokens", "what", "value"), KNOWN)
def test_a_law_says_what_its_study_says(name: str, params: float, tokens: float, what: str, value: float) -> None:
    found = published_predictions(COLUMNS, {"params": params, "tokens": tokens})[name][what]
    # batch sizes are known by their rounded constants
    assert found == pytest.approx(value, rel=0.03 if what == "batch_tokens" else 0.004)


@pytest.mark.parametrize("law", PUBLISHED, ids=lambda law: law.name)
def test_every_law_is_sane_at_a_common_size(law: PublishedLaw) -> None:
    found = published_predictions(COLUMNS, {"params": 1e9, "tokens": 2e10}, loss=2.5)[law.name]
    assert found
    if "learning_rate" in found:
        assert 1e-5 < found["learning_rate"] < 1e-2
    if "batch_tokens" in found:
        assert 2**17 < found["batch_tokens"] < 2**22


def test_laws_in_the_loss_need_it() -> None:
    place = {"params": 1e9, "tokens": 2e10}
    assert "MiniCPM" not in published_predictions(COLUMNS, place)
    assert set(published_predictions(COLUMNS, place)["Kaplan"]) == {"learning_rate"}
    # the loss that a rise of the batch size by two is worth: 2^(-1/6.24) of it
    larger = published_predictions(COLUMNS, place, loss=2.5 * 2 ** (-1 / 6.24))["MiniCPM"]["batch_tokens"]
    assert larger == pytest.approx(2 * published_predictions(COLUMNS, place, loss=2.5)["MiniCPM"]["batch_tokens"])


def test_columns_may_go_by_other_names() -> None:
    other = Columns(scales=("D", "N"), tuned=("lr",))
    assert published_laws_apply(other)
    assert published_predictions(other, {"N": 7e9, "D": 1.4e12}) == published_predictions(
        COLUMNS, {"params": 7e9, "tokens": 1.4e12}
    )


@pytest.mark.parametrize(
    ("scales", "tuned"), [(("params",), ("lr",)), (("width", "tokens"), ("lr",)), (("params", "tokens"), ("dropout",))]
)
def test_tables_about_something_else_are_not_compared(scales: tuple[str, ...], tuned: tuple[str, ...]) -> None:
    assert not published_laws_apply(Columns(scales=scales, tuned=tuned))
