"""Quantities that columns measure, by their names: tokens, batch size and others."""

from __future__ import annotations

from collections.abc import Sequence

# Names of axes that some forms of law and priors are defined for.
TOKEN_NAMES = ("tokens", "token_budget", "num_tokens", "train_tokens", "training_tokens", "d")
PARAM_NAMES = ("params", "parameters", "num_params", "n_params", "num_parameters", "n")
BATCH_NAMES = ("batch", "batch_size", "batch_tokens", "global_batch_size", "bs")
WIDTH_NAMES = ("width", "d_model", "n_embd", "hidden_size")
DEPTH_NAMES = ("depth", "layers", "n_layer", "n_layers", "num_layers", "num_hidden_layers")
# Names of axes that measure how long a run trains, besides tokens and batch size.
DURATION_NAMES = ("steps", "num_steps", "train_steps", "epochs", "examples", "samples", "flops", "compute")
RATE_NAMES = ("lr", "learning_rate", "learningrate", "base_lr", "max_lr", "peak_lr", "eta")
# Settings on which the best learning rate depends: a law fitted across several of their values is wrong for each.
SCHEDULE_NAMES = (
    "schedule",
    "lr_schedule",
    "scheduler",
    "warmup",
    "warmup_steps",
    "decay",
    "min_lr",
    "end_lr",
    "floor",
)

# Other settings that move the best value, or the loss, of runs that are otherwise alike.
SETTING_NAMES = frozenset(
    (
        *SCHEDULE_NAMES,
        *BATCH_NAMES,
        *RATE_NAMES,
        *("warmup_ratio", "warmup_fraction", "warmup_tokens", "lr_scheduler", "lr_decay", "final_lr"),
        *("weight_decay", "wd", "optimizer", "optim", "momentum", "beta1", "beta2", "beta_1", "beta_2"),
        *("adam_beta1", "adam_beta2", "epsilon", "eps", "adam_eps", "adam_epsilon", "clip", "grad_clip"),
        *("gradient_clipping", "max_grad_norm", "dropout", "label_smoothing", "ema", "ema_decay", "z_loss", "init_std"),
        *("sequence_length", "seq_len", "seq_length", "context_length", "context", "block_size", "max_seq_len"),
        *("heads", "n_heads", "n_head", "num_heads", "head_dim", "d_ff", "mlp_ratio", "ffn_ratio", "vocab_size"),
        *("dataset", "data", "corpus", "tokenizer", "parameterization", "precision", "dtype", "activation"),
    )
)

_QUANTITIES = {
    **{"rate": RATE_NAMES, "batch": BATCH_NAMES, "tokens": TOKEN_NAMES},
    **{"params": PARAM_NAMES, "width": WIDTH_NAMES, "depth": DEPTH_NAMES},
}
_SIZES_AND_BUDGETS = {*PARAM_NAMES, *WIDTH_NAMES, *DEPTH_NAMES, *TOKEN_NAMES, *BATCH_NAMES, *DURATION_NAMES}


def axis_named(axes: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first axis with one of the names, or None."""
    return next((axis for axis in axes if axis.lower() in names), None)


def is_size_or_budget(axis: str) -> bool:
    """Return True for an axis of model size or training budget."""
    return axis.lower() in _SIZES_AND_BUDGETS


def quantity_of(column: str) -> str:
    """Return a column's quantity, such as rate or params, else its name."""
    return next((quantity for quantity, names in _QUANTITIES.items() if column.lower() in names), column)
