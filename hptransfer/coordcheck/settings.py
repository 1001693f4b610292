"""How `hptransfer coord-check` trains unless it is told otherwise: wide enough for the law, small enough for seconds.

docs/coordinate_checks.csv is measured with these settings. Every one is an override that a user can give another value.
"""

from __future__ import annotations

from collections.abc import Iterable

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS, Parameterization, Role

# Checks that train the run's whole budget by its own schedule; and all those without a number of steps.
WHOLE = ("wider", "convergence")
UNSTEPPED = ("one-layer", *WHOLE)

# Optimizers whose step costs the cube of the width.
CUBIC = ("kfac", "muon", "shampoo")

IMAGES = {"run.sequence": "1", "run.batch": "64"}
TOKENS = {"run.sequence": "32"}
BY_MODEL: dict[str, dict[str, str]] = {
    "mlp": {**IMAGES, "widths": "[256,512,1024]"},
    "resmlp": {**IMAGES, "widths": "[128,256,512]"},
    "resnet": {**IMAGES, "widths": "[16,32,64]", "run.base.width": "16", "run.batch": "32"},
    "vit": {**IMAGES, "widths": "[64,128,256]", "run.batch": "16", "run.model.patch": "4"},
    "transformer": {**TOKENS, "widths": "[64,128,256]"},
    "moe": {**TOKENS, "widths": "[128,256,512]", "run.model.depth": "1", "seeds": "2"},
}
BY_MODEL_CUBIC: dict[str, dict[str, str]] = {
    "mlp": {"widths": "[64,128,256]", "seeds": "4"},
    "resmlp": {"widths": "[64,128,256]", "seeds": "4"},
    "resnet": {"seeds": "4"},
    "vit": {"run.model.depth": "1", "seeds": "2"},
    "transformer": {"run.model.depth": "1", "run.model.mlp_ratio": "2", "seeds": "2"},
    "moe": {"widths": "[64,128,256]", "run.model.mlp_ratio": "2"},
}
# Checks of whole trainings: a hundred steps, at rates below the edge of stability, where seeds go ways of their own
# whatever the width.
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
# The damping keeps K-FAC's steps off the rank of its factors: the smaller of width and examples.
KFAC = {"run.optimizer.damping": "0.5"}
# At the usual rate of AdamW a ResNet without norms has left its first steps behind by the third.
BY_PAIR: dict[tuple[str, str], dict[str, str]] = {
    ("mlp", "kfac"): {"widths": "[128,256,384]", "seeds": "2"},
    ("resnet", "adamw"): {"run.optimizer.lr": "0.0078125"},
    ("resnet", "adam_atan2"): {"run.optimizer.lr": "0.0078125"},
    ("resnet", "sgd"): {"widths": "[32,64,128]", "seeds": "4"},
    ("vit", "muon"): {"seeds": "8"},
}
# Optimizers that a readout of zeros leads astray: Adafactor's steps are relative to the weights, K-FAC's go with the
# inverse of the gradient that comes through them (arXiv:2312.12226).
RANDOM_READOUT = ("adafactor", "kfac")
EMBEDDING = ("moe", "transformer", "vit")


def axis_of(check: str) -> str:
    """The key that the sizes of a check stand under."""
    return "depths" if check == "depth" else "widths"


def refuse_unread(check: str, overrides: Iterable[str]) -> None:
    """Raises ConfigError for an override of the user's that the check would not read, or would replace."""
    sizes = axis_of(check)
    unread = {
        "widths" if sizes == "depths" else "depths": f"trains over {sizes}; set {sizes}",
        f"run.model.{sizes.removesuffix('s')}": f"trains at each of {sizes}; set {sizes}",
    }
    if check in UNSTEPPED:
        unread["steps"] = (
            "trains the run's whole budget; set run.tokens" if check in WHOLE else "takes one step; leave it out"
        )
    if check not in WHOLE:
        unread["run.tokens"] = (
            "takes one step; leave it out" if check in UNSTEPPED else "trains so many steps; set steps"
        )
    for key in ("loss", "last", "points", "diverged_above"):
        unread[f"run.{key}"] = "judges activations or curves of its own; leave it out"
    for key in ("compile", "cuda_graph", "activation_checkpointing"):
        unread[f"run.{key}"] = "looks at numbers, which it leaves as they are; leave it out"
    if check != "convergence":
        unread["run.validation_windows"] = "looks at nothing held out; leave it out"
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        why = unread.get(key)
        if key.startswith("run.schedule.") and check not in WHOLE:
            why = f"trains at the peak rate from its first step on; leave it out, or take check={' or '.join(WHOLE)}"
        if why:
            raise ConfigError(f"override {override!r} would do nothing: check={check} {why}")


def check_settings(check: str, model: str, optimizer: str, parameterization: str, *, takes: str) -> dict[str, str]:
    """Overrides of a check before the user's own.

    Args:
        check: kind of check.
        takes: kind of data that the model takes.
    """
    found = dict(BY_MODEL.get(model, TOKENS if takes == "tokens" else IMAGES))
    if optimizer in CUBIC:
        found |= BY_MODEL_CUBIC.get(model, {"seeds": "4"})
    if optimizer == "kfac":
        found |= KFAC
    found |= BY_PAIR.get((model, optimizer), {})
    if check in WHOLE:
        found |= BY_MODEL_WHOLE.get(model, {})
        found["run.tokens"] = str(STEPS_WHOLE * int(found.get("run.batch", "4")) * int(found["run.sequence"]))
        found["seeds"] = "8"
    if check == "convergence":
        found |= {"seeds": "16"} | BY_OPTIMIZER_CONVERGENCE.get(optimizer, {})
    if check == "depth":
        found.pop("widths", None)
    if check == "width" and model in EMBEDDING and slows_embeddings(parameterization):
        found["run.constants.input.lr"] = "0.25"
    if check == "width" and readout_shrinks(parameterization):
        found |= {"run.constants.output.lr": "8"} if optimizer in RANDOM_READOUT else {"run.model.zero_readout": "true"}
        if model == "moe":  # routers are readouts too, but from zero they would choose no experts
            found["run.constants.output.init"] = "0.03"
    return found


def table_of(parameterization: str) -> Parameterization | None:
    """The parameterization of a name; None if there is none, which is said later."""
    return PARAMETERIZATIONS.get(parameterization) if parameterization in PARAMETERIZATIONS.names() else None


def slows_embeddings(parameterization: str) -> bool:
    """Whether embeddings learn slower with width by intent, so that what they do to the first layers shrinks too.

    Embeddings that learn slowly at every width leave those layers their own change.
    """
    table = table_of(parameterization)
    return table is not None and table.lookup is not None


def readout_shrinks(parameterization: str) -> bool:
    """Whether a parameterization's first outputs legitimately shrink with width, and with them a share of their change.

    A readout that starts at zero takes that away (arXiv:2203.03466); one that learns fast drowns it. The readout of sp
    and ntk does not shrink; that it is too large is what a check finds.
    """
    table = table_of(parameterization)
    if table is None:
        return False
    readout = table.rows[Role.OUTPUT]
    return readout.a + readout.b > 1 / 2
