"""The code of docs/your-model.md runs, on a small model."""

import re
from typing import Any

import torch

from tests.support.helpers import ROOT
from tests.support.user_models import Transformer, text

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your-model.md").read_text(), flags=re.DOTALL)


class MyTransformer(Transformer):
    """Model a sixteenth as wide as on the page."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__(width // 16, depth=depth)
        assert heads * 64 == width


def test_the_code_of_your_model_runs() -> None:
    """Run every block in turn, each with a new model.

    The model is too narrow for flat slopes.
    """
    torch.manual_seed(0)
    known: dict[str, Any] = {"MyTransformer": MyTransformer, "batch": text()}
    for block in BLOCKS:
        exec(block.replace("assert check.passed, check.fails\n", ""), known)
        known["model"] = known["make"](1024)
    assert len(BLOCKS) == 4
    assert known["check"].axis == "depth"
    assert len(known["parameterized"].branches) == 24
    assert isinstance(known["optimizer"], torch.optim.AdamW)
