"""K-FAC: steps B^-1 G A^-1 from moments of inputs and output gradients.

A are second moments of a layer's inputs, B those of the gradients in its output. Sources: Martens and Grosse
(arXiv:1503.05671); convolutions by patches (1602.01407); layers with positions by KFAC-expand (2311.00636). Damping is
a share of the largest eigenvalue (scaling with width: 2312.12226). The Fisher matrix is the empirical one: gradients of
the loss itself, not of labels drawn from the model.

A trial's loss is a mean over N terms, examples times predictions in each. Let g be the gradient of that mean in the
layer's output before its multiplier. A term's own gradient is N g. Its second moment B is N times the sum of g g^T over
examples and positions. A lookup's input has a single 1, so that its A is diagonal: how often each row is
read. Learned positions are read once for the whole batch; their g is summed over it.

Steps scale as the inverse of the gradient, without a trust region: they grow as the training loss goes to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import INVERSE_CURVATURE, Role, UpdateLaw
from hptransfer.training.layers import Conv2d, Embedding, Layer, Linear, Moments
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.optimizers._matrix import DecoupledPreconditioner, MatrixConfig


@OPTIMIZERS.register("kfac")
@dataclass(kw_only=True)
class KfacConfig(MatrixConfig):
    """Settings of K-FAC."""

    name: str = "kfac"
    lr: float = 2.0**-6
    """Peak learning rate at the base, above 0. It is AdamW's rate for the rest too, unless `constants` differ."""
    damping: float = 1e-2
    """Damping added to a factor's eigenvalues, as a share of the largest; above 0. At 1e-3 and below steps also depend
    on the factors' rank, the smaller of width and examples. Widths near the batch then deviate from the law."""
    largest_side: int = 2048
    """Largest number of outputs of a readout with a dense B; it is diagonal above. Sides that grow with width are
    always dense, because a diagonal would have another law."""

    @property
    def matrix_law(self) -> UpdateLaw:
        return INVERSE_CURVATURE

    def preconditioned(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Kfac(groups)


class Kfac(DecoupledPreconditioner):
    """K-FAC, which records its layers' moments and clears them every step."""

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params)
        self.layers = {layer for group in params for layer in group["layers"]}
        for layer in self.layers:
            tied = isinstance(layer, Embedding) and layer.tied
            if tied or not isinstance(layer, Linear | Conv2d | Embedding):
                tensor, remedy = (
                    ("a tied embedding", "untie it") if tied else (type(layer).__name__, "take another model")
                )
                adamw = ", or leave it to AdamW by run.optimizer.matrices=hidden" * (layer.role is not Role.HIDDEN)
                raise ConfigError(
                    f"run.optimizer=kfac has no factors for {tensor}, a matrix of role {layer.role.value}; {remedy}, "
                    f"or run/optimizer=shampoo{adamw}"
                )
            # A stack has one form of moments for all its trials; dense moments include the diagonal.
            of_layer = [group for group in params if layer in group["layers"]]
            layer.moments = Moments(diagonal=all(_diagonal(layer, group) for group in of_layer))

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for layer in self.layers:
            assert layer.moments is not None, "switched on above"
            layer.moments.clear()

    def factors(self, view: Tensor, layer: Layer, group: dict[str, Any]) -> list[Tensor | None]:
        moments, trial = layer.moments, group["trial"]
        assert moments is not None, "switched on above"
        assert moments.inputs is not None, "no backward pass since the last step"
        assert moments.outputs is not None, "no backward pass since the last step"
        a, b = moments.inputs[trial] / moments.rows, moments.outputs[trial] * group["terms"]
        if b.dim() == 2 and _diagonal(layer, group):
            b = b.diagonal()
        return [a, b] if isinstance(layer, Embedding) else [b, a]

    def power(self, num_factors: int) -> float:
        return -1.0


def _diagonal(layer: Layer, group: dict[str, Any]) -> bool:
    """Test if a group's setting makes the layer's B a diagonal."""
    return layer.role is Role.OUTPUT and layer.fan_out > int(group["largest_side"])
