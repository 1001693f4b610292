"""hptransfer: find a large model's hyperparameters by sweeping small proxies.

For your own nn.Module: `parameterize` and `coord_check`, which import torch when they are first used.
For your own training script: `report`, which imports the standard library alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hptransfer.coordcheck.user_model import coord_check as coord_check
    from hptransfer.core.reporting import report as report
    from hptransfer.training.user_model.parameterize import parameterize as parameterize

__version__ = "0.2.0"

_HOMES = {
    "report": "hptransfer.core.reporting",
    "parameterize": "hptransfer.training.user_model.parameterize",
    "coord_check": "hptransfer.coordcheck.user_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
