"""Models independent of the package, and their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer import parameterize

TOKENS, POSITIONS, HEAD = 50, 32, 8


class Perceptron(nn.Module):
    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(20, width, bias=bias)
        self.middle = nn.Linear(width, width, bias=bias)
        self.last = nn.Linear(width, 7, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention with the builtin transformer's queries, keys and values.

    In its order, optionally with one key-value head.
    """

    def __init__(self, width: int, *, one_key: bool = False) -> None:
        super().__init__()
        self.one_key = one_key
        if one_key:
            self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * HEAD, bias=False)
        else:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        if self.one_key:
            q = self.q(x_BSD).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            k, v = (y.unsqueeze(1).expand_as(q) for y in self.kv(x_BSD).chunk(2, dim=-1))
        else:
            q, k, v = (y.transpose(1, 2) for y in self.qkv(x_BSD).unflatten(-1, (3, -1, HEAD)).unbind(-3))
        y_BSD = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.out(y_BSD)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, *, gains: bool, one_key: bool) -> None:
        super().__init__()
        self.attention = Attention(width, one_key=one_key)
        self.mlp = Mlp(width)
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=1e-6, elementwise_affine=gains) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Transformer with the builtin one's computations and names.

    `tied` ties as a module, or by F.linear if it is "call".
    """

    def __init__(
        self, width: int, *, depth: int = 2, tied: bool | str = False, gains: bool = False, one_key: bool = False
    ) -> None:
        super().__init__()
        self.tied = tied
        self.tokens, self.positions = nn.Embedding(TOKENS, width), nn.Embedding(POSITIONS, width)
        self.blocks = nn.ModuleList(Block(width, gains=gains, one_key=one_key) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=gains)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.5)
        if tied != "call":
            self.readout = nn.Linear(width, TOKENS, bias=False)
        if tied is True:
            self.readout.weight = self.tokens.weight

    def forward(self, indices_BS: Tensor) -> Tensor:
        x_BSD = self.tokens(indices_BS) + self.positions(torch.arange(indices_BS.shape[1]))
        for block in self.blocks:
            x_BSD = block(x_BSD)
        x_BSD = self.norm(x_BSD)
        return F.linear(x_BSD, self.tokens.weight) if self.tied == "call" else self.readout(x_BSD)


def text(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random indices and the next ones."""
    indices = torch.randint(TOKENS, (4, POSITIONS + 1), generator=torch.Generator().manual_seed(seed))
    return indices[:, :-1], indices[:, 1:]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def examples() -> tuple[Tensor, Tensor]:
    """Return features and classes for the perceptron."""
    stream = torch.Generator().manual_seed(0)
    return torch.randn(16, 20, generator=stream), torch.randint(7, (16,), generator=stream)


def losses(
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    batches: Sequence[Any],
    of: Callable[[nn.Module, Any], Tensor] = loss,
) -> list[float]:
    """Return training losses, one per batch."""
    found, optimizers = [], list(optimizers)
    for batch in batches:
        value = of(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append(value.item())
    return found


def seeded(make: Callable[[int], nn.Module], width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make(width)


def mup(model: nn.Module, make: Callable[[int], nn.Module] = Transformer, **options: Any) -> Any:
    """Parameterize a model with muP and AdamW at base width 16.

    Options override these.
    """
    return parameterize(model, **{"make": make, "base": 16, "optimizer": "adamw", "lr": 2.0**-6, **options})
