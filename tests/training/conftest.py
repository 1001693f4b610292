"""One thread: the tests run beside others, and small models gain nothing from more."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
