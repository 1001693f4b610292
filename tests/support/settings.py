"""Small runs to change one thing of: those of the contract kits, under the names that tests use."""

from hptransfer.testing.runs import SHAPES
from hptransfer.testing.runs import run_of_model as of_model
from hptransfer.testing.runs import small_run as small

__all__ = ["SHAPES", "of_model", "small"]
