"""Small runs to change one thing of: those of the contract kits, under the names that tests use."""

from hptransfer.testing.small_runs import DATA_SHAPES
from hptransfer.testing.small_runs import run_of_model as of_model
from hptransfer.testing.small_runs import small_run as small

__all__ = ["DATA_SHAPES", "of_model", "small"]
