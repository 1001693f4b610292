"""Parameterizations: scaling of init, multipliers and learning rates with width.

One file each.
"""

from hptransfer.parameterizations import _unit_scaling as unit_scaling
from hptransfer.parameterizations._base import (
    ENTRYWISE,
    FULL_ALIGNMENT,
    INVERSE_CURVATURE,
    MATRICES,
    NO_ALIGNMENT,
    PARAMETERIZATIONS,
    RAW,
    RELATIVE,
    SPECTRAL,
    SPECTRAL_RMS,
    ZERO,
    Parameterization,
    Role,
    RoleExponents,
    ShapePower,
    UpdateLaw,
)
from hptransfer.parameterizations._group_rules import GroupRule, Scaling, memory, scaled, timescale
from hptransfer.parameterizations._resolve import (
    BUDGET_RULES,
    BranchRule,
    BudgetRatio,
    Sizes,
    TensorRule,
    alignment_of,
    resolve,
)

__all__ = [
    "BUDGET_RULES",
    "BranchRule",
    "BudgetRatio",
    "GroupRule",
    "Scaling",
    "TensorRule",
    "Sizes",
    "alignment_of",
    "memory",
    "resolve",
    "scaled",
    "timescale",
    "unit_scaling",
    "INVERSE_CURVATURE",
    "ENTRYWISE",
    "FULL_ALIGNMENT",
    "MATRICES",
    "NO_ALIGNMENT",
    "PARAMETERIZATIONS",
    "Parameterization",
    "ShapePower",
    "RAW",
    "RELATIVE",
    "Role",
    "RoleExponents",
    "SPECTRAL",
    "SPECTRAL_RMS",
    "UpdateLaw",
    "ZERO",
]
