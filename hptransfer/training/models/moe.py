"""Mixture of experts: decoder transformer whose router picks experts per token.

The experts take the place of a block's MLP. The output of a branch is (1/A) sum g_i E_i(h) over the A active experts,
g_i being the sigmoid of the router's logit. The experts with the largest g_i + b_i are active. The bias b is not
trained but moves against the load: b -= rate (load - kappa). No loss is added for balance. Form and rules:
arXiv:2601.20205.

Letters: K trials, B sequences, S positions, N = B S tokens, D width, E experts, A active ones, F an expert's width.
There are R = N A rows, one for every token and expert that it is sent to.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError, divisors, multiples
from hptransfer.parameterizations import Role
from hptransfer.training.layers import Layer, Linear, Norm, Residual, narrowed, products, scale_fwd
from hptransfer.training.models import BF16, MODELS
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.operations import Activation


@MODELS.register("moe")
@dataclass(kw_only=True)
class MoeConfig(TransformerConfig):
    """Settings of a mixture of experts, with three further axes.

    The axes are `experts` at a fixed share of active ones, `sparsity`, and `granularity`.
    """

    unit: ClassVar[bool] = False
    compiles: ClassVar[tuple[str, ...]] = (BF16,)  # torch compiles the experts' product in this type only
    recordable: ClassVar[bool] = False  # experts' products read row counts, except on the newest GPUs

    name: str = "moe"
    experts: int = 8
    """Experts per layer, a multiple of sparsity. Each is an MLP of mlp_ratio times the model's width."""
    sparsity: int = 4
    """Experts per active expert: a token is sent to experts / sparsity of them; kappa is 1 / sparsity."""
    granularity: int = 1
    """Pieces that every expert is cut into. It multiplies the numbers of experts and of active experts and divides an
    expert's width; parameters and FLOPs stay. a_ffn, an expert's width over the model's, is mlp_ratio / granularity."""
    balance_rate: float = 0.01
    """Rate at which the bias of an expert's selection moves against its load; 0 turns balancing off."""
    base_active: int = 2
    """Active experts of the base model, before granularity; the parameterization's factors are 1 there."""
    base_granularity: int = 1
    """Granularity of the base model."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_positive(place, "experts", "sparsity", "granularity", "base_active", "base_granularity")
        if self.experts % self.sparsity:
            suggestion = multiples(self.experts, self.sparsity)
            raise ConfigError(
                f"{place}.experts must be a multiple of {place}.sparsity ({self.sparsity}), got {self.experts}; "
                f"take {suggestion}, or another sparsity"
            )
        if self.mlp_width % self.granularity:
            suggestion = divisors(self.mlp_width, self.granularity)
            raise ConfigError(
                f"{place}.granularity must divide an expert's width, {place}.mlp_ratio ({self.mlp_ratio}) x "
                f"{place}.width ({self.width}) = {self.mlp_width}, got {self.granularity}; take {suggestion}"
            )
        if not 0 <= self.balance_rate < math.inf:
            raise ConfigError(f"{place}.balance_rate must be at least 0 and finite, got {self.balance_rate}")

    @property
    def num_experts(self) -> int:
        """Number of experts after cutting."""
        return self.experts * self.granularity

    @property
    def num_active(self) -> int:
        """Number of active experts after cutting."""
        return self.num_experts // self.sparsity

    @property
    def expert_width(self) -> int:
        """Width of one expert after cutting."""
        return self.mlp_width // self.granularity

    def expert_params(self) -> int:
        """Return the number of entries of one expert."""
        return (3 if self.activation == "swiglu" else 2) * self.width * self.expert_width

    def mlp_params(self) -> int:
        return self.num_experts * (self.expert_params() + self.width)

    def mlp_weights(self) -> int:
        """Return the entries that one token uses in one layer.

        They are those of the router and of the token's active experts.
        """
        return self.num_experts * self.width + self.num_active * self.expert_params()

    def base_settings(self, width: int) -> dict[str, Any]:
        experts = self.base_active * self.sparsity
        return {"width": width, "experts": experts, "granularity": self.base_granularity}

    def branch(self, trials: int) -> Residual:
        return MixtureOfExperts(self, trials)

    def report(self, model: nn.Module) -> dict[str, Tensor]:
        """Return `expert_load`: the busiest expert's tokens over the mean.

        It is the largest over layers. 1 is balanced; sparsity is the maximum.
        """
        loads_LK = torch.stack([mixture.take_load() for mixture in mixtures(model).values()])
        return {"expert_load": loads_LK.amax(dim=0)}

    def probe(self, model: nn.Module) -> dict[str, nn.Module]:
        """Mark mixtures as probed and return them by name."""
        probed = mixtures(model)
        for mixture in probed.values():
            mixture.probed = True
        return dict(probed)


def mixtures(model: nn.Module) -> dict[str, MixtureOfExperts]:
    """Return a model's mixtures by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureOfExperts)}


class ExpertLinear(Layer):
    """Linear layer with one matrix per expert, without bias.

    Its weight is (K, E, O, I). An expert's output is one of `averaged` in a mean.
    """

    def __init__(self, trials: int, experts: int, fan_in: int, fan_out: int, *, averaged: int) -> None:
        super().__init__((trials, experts, fan_out, fan_in), role=Role.HIDDEN, fan_in=fan_in, fan_out=fan_out)
        self.averaged = averaged

    def forward(self, x: Tensor, ends_G: Tensor | None = None) -> Tensor:
        """Multiply each row by its expert's matrix.

        Rows x_KRI, sorted by expert, -> x_KRO; without ends, x_KENI -> x_KENO.

        Args:
            ends_G: end of the rows of each of all trials' K E experts.
        """
        weight_GOI = self.weight.flatten(0, 1)
        rows = x.flatten(0, 1)
        y = products(rows, weight_GOI) if ends_G is None else grouped_product(rows, weight_GOI, ends_G)
        return scale_fwd(y.view(*x.shape[:-1], self.fan_out), self.multiplier)

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        return [tensor[expert] for expert in range(len(tensor))]


GROUPED_MM = getattr(F, "grouped_mm", None)  # newer than the oldest torch that this package supports


def grouped_product(x_RI: Tensor, weight_GOI: Tensor, ends_G: Tensor) -> Tensor:
    """Multiply the rows of every group by its own matrix.

    No row is dropped and none is padded. Torch has one kernel for all groups, but not for float64, nor for sides that
    are not a multiple of 16 bytes.

    Args:
        ends_G: end of the rows of every group.
    """
    x_RI, weight_GOI = narrowed(x_RI, weight_GOI)
    sides = [side * x_RI.element_size() for side in weight_GOI.shape[1:]]
    if GROUPED_MM is not None and x_RI.dtype != torch.float64 and not any(side % 16 for side in sides):
        product: Tensor = GROUPED_MM(x_RI, weight_GOI.mT, offs=ends_G.int())
        return product
    groups = x_RI.tensor_split(ends_G[:-1].cpu())
    return torch.cat([F.linear(rows, matrix) for rows, matrix in zip(groups, weight_GOI, strict=True)])


class MixtureOfExperts(Residual):
    """Mixture of experts with its router, pre-norm.

    Attributes:
        bias: b_i, shape (K, E), updated by every backward pass.
        load: share of the tokens that each expert received, shape (K, E), summed over backward passes.
        probed: True for a check that repeats one batch: tokens keep their first experts, because a token that leaves
            its expert changes by far more than a step, and every expert receives every token.
        first_choice: experts of a probed mixture, as chosen in its first pass.
    """

    bias: Tensor
    load: Tensor

    def __init__(self, cfg: MoeConfig, trials: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.probed = False
        self.first_choice: Tensor | None = None
        experts, active, inner = cfg.num_experts, cfg.num_active, cfg.expert_width
        self.norm = Norm(trials, cfg.width, gain=cfg.norm_gains)
        self.router = Linear(trials, cfg.width, experts, role=Role.OUTPUT)
        self.router.averaged = active
        gate = 2 if cfg.activation == "swiglu" else 1
        self.up = ExpertLinear(trials, experts, cfg.width, gate * inner, averaged=active)
        self.activation = Activation(cfg.activation)
        self.down = ExpertLinear(trials, experts, inner, cfg.width, averaged=active)
        self.down.spread = cfg.granularity**0.5  # a_ffn^-1/2, so that the sum keeps its size as experts are cut
        self.register_buffer("bias", torch.zeros(trials, experts))
        self.register_buffer("load", torch.zeros(trials, experts))

    def forward(self, x_KBSD: Tensor) -> Tensor:
        h_KND = self.norm(x_KBSD).flatten(1, 2)
        # In float32, as the choice depends on small differences (arXiv:2101.03961).
        with torch.autocast(h_KND.device.type, enabled=False):
            gates_KNE = self.router(h_KND).sigmoid()
        chosen_KNA = self._chosen(gates_KNE.detach())
        if gates_KNE.requires_grad:
            gates_KNE.register_hook(functools.partial(self._balance, chosen_KNA))
        experts = self._all if self.probed else self._active
        y_KNAD = gates_KNE.gather(2, chosen_KNA).unsqueeze(-1) * experts(h_KND, chosen_KNA)
        y_KND: Tensor = y_KNAD.mean(dim=2)
        return y_KND.view_as(x_KBSD)

    def _chosen(self, gates_KNE: Tensor) -> Tensor:
        if self.first_choice is not None:
            return self.first_choice
        chosen_KNA = (gates_KNE + self.bias.unsqueeze(1)).topk(self.cfg.num_active, dim=-1).indices
        self.first_choice = chosen_KNA if self.probed else None
        return chosen_KNA

    def _active(self, h_KND: Tensor, chosen_KNA: Tensor) -> Tensor:
        """Return the outputs y_KNAD of the chosen experts.

        Rows are sorted by trial and expert, and sorted back.
        """
        trials, experts = self.bias.shape
        groups = torch.arange(trials * experts, device=h_KND.device)
        of_R = (chosen_KNA + groups[::experts].view(-1, 1, 1)).flatten()
        order_R = of_R.argsort(stable=True)
        ends_G = torch.searchsorted(of_R[order_R], groups, right=True)
        rows_KRD = h_KND.flatten(0, 1)[order_R // chosen_KNA.shape[2]].view(trials, -1, h_KND.shape[2])
        y_KRD: Tensor = self.down(self.activation(self.up(rows_KRD, ends_G)), ends_G)
        return y_KRD.flatten(0, 1)[order_R.argsort()].view(*chosen_KNA.shape, -1)

    def _all(self, h_KND: Tensor, chosen_KNA: Tensor) -> Tensor:
        """Return the outputs of the chosen experts, from all experts' outputs.

        Every expert receives every token.
        """
        h_KEND = h_KND.unsqueeze(1).expand(-1, self.cfg.num_experts, -1, -1)
        y_KNED: Tensor = self.down(self.activation(self.up(h_KEND))).transpose(1, 2)
        return y_KNED.gather(2, chosen_KNA.unsqueeze(-1).expand(-1, -1, -1, h_KND.shape[2]))

    def _balance(self, chosen_KNA: Tensor, _: Tensor) -> None:
        """Update the bias in the backward pass, so that evaluation never does."""
        ones_KR = torch.ones_like(chosen_KNA.flatten(1), dtype=self.load.dtype)
        load_KE = torch.zeros_like(self.load).scatter_add_(1, chosen_KNA.flatten(1), ones_KR / chosen_KNA.shape[1])
        self.load += load_KE
        self.bias -= self.cfg.balance_rate * (load_KE - 1 / self.cfg.sparsity)

    def take_load(self) -> Tensor:
        """Return the largest load over the mean, shape (K,), and reset."""
        largest_K = self.load.amax(dim=1) / self.load.mean(dim=1)
        self.load.zero_()
        return largest_K
