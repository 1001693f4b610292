"""Default settings of `hptransfer coord-check`.

Models are wide enough for the law, and small enough to train in seconds. docs/coordinate_checks.csv is measured with
these settings. A user can override every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role

# Checks that train the run's whole budget by its own schedule, and all checks without a number of steps.
WHOLE_TRAININGS = ("wider", "convergence")
WITHOUT_STEPS = ("one-layer", *WHOLE_TRAININGS)

# Optimizers whose step costs the cube of the width.
CUBIC_OPTIMIZERS = ("kfac", "muon", "shampoo")

IMAGE_RUN = {"run.sequence": "1", "run.batch": "64"}
TOKEN_RUN = {"run.sequence": "32"}
BY_MODEL: dict[str, dict[str, str]] = {
    "mlp": {**IMAGE_RUN, "widths": "[256,512,1024]"},
    "resmlp": {**IMAGE_RUN, "widths": "[128,256,512]"},
    "resnet": {**IMAGE_RUN, "widths": "[16,32,64]", "run.base.width": "16", "run.batch": "32"},
    "vit": {**IMAGE_RUN, "widths": "[64,128,256]", "run.batch": "16", "run.model.patch": "4"},
    "transformer": {**TOKEN_RUN, "widths": "[64,128,256]"},
    "moe": {**TOKEN_RUN, "widths": "[128,256,512]", "run.model.depth": "1", "seeds": "2"},
}
BY_MODEL_CUBIC: dict[str, dict[str, str]] = {
    "mlp": {"widths": "[64,128,256]", "seeds": "4"},
    "resmlp": {"widths": "[64,128,256]", "seeds": "4"},
    "resnet": {"seeds": "4"},
    "vit": {"run.model.depth": "1", "seeds": "2"},
    "transformer": {"run.model.depth": "1", "run.model.mlp_ratio": "2", "seeds": "2"},
    "moe": {"widths": "[64,128,256]", "run.model.mlp_ratio": "2"},
}
# Checks of whole trainings: a hundred steps, at rates below the edge of stability, where seeds diverge from each other
# at every width.
STEPS_WHOLE = 100
BY_MODEL_WHOLE: dict[str, dict[str, str]] = {
    "mlp": {"widths": "[64,128,256,512]", "run.batch": "16"},
    "resmlp": {"widths": "[64,128,256,512]", "run.batch": "16"},
    "resnet": {"widths": "[8,16,32]", "run.batch": "16"},
    "vit": {"widths": "[32,64,128]", "run.batch": "16", "run.model.depth": "1"},
    "transformer": {"widths": "[32,64,128]", "run.batch": "4", "run.model.depth": "1"},
    "moe": {"widths": "[32,64,128]", "run.batch": "4"},
}
BY_OPTIMIZER_CONVERGENCE: dict[str, dict[str, str]] = {
    "adamw": {"run.optimizer.lr": "0.00390625"},
    "adam_atan2": {"run.optimizer.lr": "0.00390625"},
    "sgd": {"run.optimizer.lr": "0.02", "run.optimizer.momentum": "0"},
}
# The damping makes K-FAC's steps independent of the rank of its factors, the smaller of width and examples.
KFAC = {"run.optimizer.damping": "0.5"}
# At AdamW's usual rate a ResNet without norms is no longer in its initial regime by the third step.
BY_PAIR: dict[tuple[str, str], dict[str, str]] = {
    ("mlp", "kfac"): {"widths": "[128,256,384]", "seeds": "2"},
    ("resnet", "adamw"): {"run.optimizer.lr": "0.0078125"},
    ("resnet", "adam_atan2"): {"run.optimizer.lr": "0.0078125"},
    ("resnet", "sgd"): {"widths": "[32,64,128]", "seeds": "4"},
    ("vit", "muon"): {"seeds": "8"},
}
# Optimizers that fail with a readout of zeros: Adafactor's steps are relative to the weights, K-FAC's scale with the
# inverse of the gradient that comes through them (arXiv:2312.12226).
RANDOM_READOUT = ("adafactor", "kfac")
WITH_EMBEDDING = ("moe", "transformer", "vit")


def axis_of(check: str) -> str:
    """Return the key of a check's sizes."""
    return "depths" if check == "depth" else "widths"


def refuse_unread(check: str, overrides: Iterable[str]) -> None:
    """Raise ConfigError for an override that the check ignores or replaces."""
    sizes = axis_of(check)
    unread = {
        "widths" if sizes == "depths" else "depths": f"trains over {sizes}; set {sizes}",
        f"run.model.{sizes.removesuffix('s')}": f"trains at each of {sizes}; set {sizes}",
    }
    if check in WITHOUT_STEPS:
        unread["steps"] = (
            "trains the run's whole budget; set run.tokens"
            if check in WHOLE_TRAININGS
            else "takes one step; leave it out"
        )
    if check not in WHOLE_TRAININGS:
        unread["run.tokens"] = (
            "takes one step; leave it out"
            if check in WITHOUT_STEPS
            else "trains for the number of steps given by steps; set steps"
        )
    for key in ("loss", "last", "points", "diverged_above"):
        unread[f"run.{key}"] = "judges activations or curves; leave it out"
    for key in ("compile", "cuda_graph", "activation_checkpointing"):
        unread[f"run.{key}"] = "judges numbers, which this does not change; leave it out"
    if check != "convergence":
        unread["run.validation_windows"] = "uses no held-out data; leave it out"
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        why = unread.get(key)
        if key.startswith("run.schedule.") and check not in WHOLE_TRAININGS:
            checks = " or ".join(WHOLE_TRAININGS)
            why = f"trains at the peak rate from its first step on; leave it out, or take check={checks}"
        if why:
            raise ConfigError(f"override {override!r} would do nothing: check={check} {why}")


def default_overrides(check: str, model: str, optimizer: str, parameterization: str, *, takes: str) -> dict[str, str]:
    """Return the overrides of a check that precede the user's.

    Args:
        check: name of the check.
        takes: kind of data that the model accepts.
    """
    overrides = dict(BY_MODEL.get(model, TOKEN_RUN if takes == "tokens" else IMAGE_RUN))
    if optimizer in CUBIC_OPTIMIZERS:
        overrides |= BY_MODEL_CUBIC.get(model, {"seeds": "4"})
    if optimizer == "kfac":
        overrides |= KFAC
    overrides |= BY_PAIR.get((model, optimizer), {})
    if check in WHOLE_TRAININGS:
        overrides |= BY_MODEL_WHOLE.get(model, {})
        overrides["run.tokens"] = str(
            STEPS_WHOLE * int(overrides.get("run.batch", "4")) * int(overrides["run.sequence"])
        )
        overrides["seeds"] = "8"
    if check == "convergence":
        overrides |= {"seeds": "16"} | BY_OPTIMIZER_CONVERGENCE.get(optimizer, {})
    if check == "depth":
        overrides.pop("widths", None)
    if check == "width" and model in WITH_EMBEDDING and slows_embeddings(parameterization):
        overrides["run.constants.input.lr"] = "0.25"
    if check == "width" and readout_shrinks(parameterization):
        overrides |= (
            {"run.constants.output.lr": "8"} if optimizer in RANDOM_READOUT else {"run.model.zero_readout": "true"}
        )
        if model == "moe":  # routers are readouts too, but from zero they would choose no experts
            overrides["run.constants.output.init"] = "0.03"
    return overrides


def table_of(parameterization: str) -> Parameterization | None:
    """Return the parameterization of a name, or None for an unknown one.

    Unknown names are reported later.
    """
    return PARAMETERIZATIONS.get(parameterization) if parameterization in PARAMETERIZATIONS.names() else None


def slows_embeddings(parameterization: str) -> bool:
    """Test if embeddings learn slower with width by intent.

    Their effect on the first layers then shrinks too. With embeddings that learn slowly at every width, the check shows
    the change of these layers themselves.
    """
    table = table_of(parameterization)
    return table is not None and table.lookup is not None


def readout_shrinks(parameterization: str) -> bool:
    """Test if a parameterization's first outputs shrink with width by intent.

    A share of their change then shrinks too. A readout that starts at zero removes this share (arXiv:2203.03466); a
    readout that learns fast outweighs it. The readout of sp and ntk does not shrink. It is too large, which a check
    detects.
    """
    table = table_of(parameterization)
    if table is None:
        return False
    readout = table.rows[Role.OUTPUT]
    return readout.a + readout.b > 1 / 2
