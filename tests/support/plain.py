"""The builtin MLP and transformer as ordinary torch modules.

They have no trial axis and no roles.

Letters: B examples, S positions, D width, H heads, C head size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.training.config import RunConfig
from hptransfer.training.stack import Stack

Readout = Callable[[int, int, bool], nn.Linear]
"""A last layer from its fan-in, its fan-out, and whether it has a bias."""


class PlainMlp(nn.Module):
    def __init__(self, sizes: list[int], *, biases: bool, readout: Readout = nn.Linear) -> None:
        super().__init__()
        inner = [nn.Linear(fan_in, fan_out, bias=biases) for fan_in, fan_out in itertools.pairwise(sizes[:-1])]
        self.layers = nn.ModuleList([*inner, readout(sizes[-2], sizes[-1], biases)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x.flatten(1))
        for layer in self.layers[1:]:
            x = layer(F.relu(x))
        return x.unsqueeze(1)


class PlainBlock(nn.Module):
    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)).mT for y in self.qkv(rms(x_BSD)).chunk(3, dim=-1))
        q_BHSC, k_BHSC, v_BHSC = (y.permute(0, 3, 1, 2) for y in (q, k, v))
        scores = q_BHSC @ k_BHSC.mT * self.head_dim**-0.5
        past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        weights = scores.masked_fill(~past, -torch.inf).softmax(dim=-1)
        x_BSD = x_BSD + self.out((weights @ v_BHSC).transpose(1, 2).flatten(2))
        return x_BSD + self.down(F.gelu(self.up(rms(x_BSD))))


class PlainTransformer(nn.Module):
    """Plain transformer; `shared` uses the embedding's weights as readout."""

    def __init__(
        self,
        *,
        vocabulary: int,
        sequence: int,
        width: int,
        depth: int,
        head_dim: int,
        readout: Readout = nn.Linear,
        shared: Callable[[nn.Parameter], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(sequence, width)
        self.blocks = nn.ModuleList(PlainBlock(width, head_dim) for _ in range(depth))
        self.readout = shared(self.tokens.weight) if shared else readout(width, vocabulary, False)

    def forward(self, indices_BS: Tensor) -> Tensor:
        x_BSD = self.tokens(indices_BS) + self.positions.weight[: indices_BS.shape[1]]
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return self.readout(rms(x_BSD))


def rms(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()


def copy_weights(stack: Stack, plain: nn.Module) -> None:
    """Copy the weights of a stack of one to a plain model.

    Its parameters have other names but the same order.
    """
    ours = sorted(stack.model.named_parameters(), key=lambda item: "biases" in item[0])
    theirs = sorted(plain.named_parameters(), key=lambda item: item[0].endswith("bias"))
    with torch.no_grad():
        for (_, source), (_, target) in zip(ours, theirs, strict=True):
            target.copy_(source[0])


def batches(run: RunConfig, steps: int = 20) -> list[tuple[Tensor, Tensor]]:
    data = run.data.load()
    return [data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence) for step in range(steps)]


def stack_losses(stack: Stack, found: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    return [stack.step(inputs, targets, step).item() for step, (inputs, targets) in enumerate(found)]


def plain_losses(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], found: Iterable[tuple[Tensor, Tensor]]
) -> list[float]:
    """Train in an ordinary loop; return the losses before every step."""
    losses = []
    for inputs, targets in found:
        outputs = model(inputs.double() if inputs.is_floating_point() else inputs)
        loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses
