"""Roles of columns by their names, such as tokens or batch size."""

from __future__ import annotations

from collections.abc import Sequence

# Names of axes that some forms of law and priors are defined for.
TOKENS = ("tokens", "token_budget", "num_tokens", "train_tokens", "training_tokens", "d")
PARAMS = ("params", "parameters", "num_params", "n_params", "num_parameters", "n")
BATCH = ("batch", "batch_size", "batch_tokens", "global_batch_size", "bs")
WIDTH = ("width", "d_model", "n_embd", "hidden_size")
DEPTH = ("depth", "layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers")
# Names of axes that measure how long a run trains, besides tokens and batch size.
DURATION = ("steps", "num_steps", "train_steps", "epochs", "examples", "samples", "flops", "compute")


def named(axes: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first axis with one of the names, or None."""
    return next((axis for axis in axes if axis.lower() in names), None)


# Settings on which the best learning rate depends: a law fitted across several of their values is wrong for each.
SCHEDULE = ("schedule", "lr_schedule", "scheduler", "warmup", "warmup_steps", "decay", "min_lr", "end_lr", "floor")


def is_size_or_budget(axis: str) -> bool:
    """Return True for an axis of model size or training budget."""
    return any(axis.lower() in names for names in (PARAMS, WIDTH, DEPTH, TOKENS, BATCH, DURATION))


LEARNING_RATE = ("lr", "learning_rate", "learningrate", "base_lr", "max_lr", "peak_lr", "eta")


_KINDS = {"rate": LEARNING_RATE, "batch": BATCH, "params": PARAMS, "tokens": TOKENS}


def kind(name: str) -> str:
    """Return the role of a column by its name, else the name."""
    return next((role for role, names in _KINDS.items() if name.lower() in names), name)
