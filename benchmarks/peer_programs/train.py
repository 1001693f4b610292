"""Trial of the quickstart in PyTorch alone: a small GPT under muP.

It trains on bytes of text and imports nothing of hptransfer. Batches and held-out windows are read from a file, and
weights are drawn from a stream for each parameter, so that losses can be compared. A run's folder contains batches.pt
and receives results/*.json.

Suffixes of names are shapes: B sequences, S positions, D width, H heads and C head size.
"""

import json
import math
import time
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE_WIDTH, HEAD, VOCABULARY, SEQUENCE = 64, 16, 256, 64
BETAS, EPS, DECAY = (0.8, 0.95), 1e-8, 0.1
WARMUP = 0.3  # of the steps
POINTS = 32  # number of checks of the loss
DIVERGED = 1.5  # times the first loss
VALIDATION_BATCH = 64


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BSD).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        y_BHSC = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y_BHSC.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BSD)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width), Mlp(width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(norm(x_BSD))
        return x_BSD + self.mlp(norm(x_BSD))


class Gpt(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(SEQUENCE, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.readout = nn.Linear(width, VOCABULARY, bias=False)
        self.multiplier = BASE_WIDTH / width

    def forward(self, tokens_BS: Tensor) -> Tensor:
        x_BSD = self.tokens(tokens_BS) + self.positions.weight
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return self.readout(norm(x_BSD)) * self.multiplier


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def initialize(model: Gpt, seed: int) -> None:
    """Draw embeddings of size 1 and hidden matrices of fan_in^-1/2.

    The readout has the spread of the base width.
    """
    for name, weight in model.named_parameters():
        std = weight.shape[1] ** -0.5 if "blocks" in name else BASE_WIDTH**-0.5 if "readout" in name else 1.0
        stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        weight.data = torch.randn(weight.shape, generator=stream) * std


def make_optimizer(model: Gpt, lr: float, width: int) -> torch.optim.Optimizer:
    """Return AdamW under muP.

    Rates of hidden matrices fall as the width grows; their decay per step stays.
    """
    n = width / BASE_WIDTH
    hidden = [weight for name, weight in model.named_parameters() if "blocks" in name]
    others = [weight for name, weight in model.named_parameters() if "blocks" not in name]
    groups = [
        {"params": hidden, "lr": lr / n, "weight_decay": DECAY * n},
        {"params": others, "lr": lr, "weight_decay": DECAY},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPS / n, fused=True)


def factor(step: int, steps: int) -> float:
    """Return the schedule's factor: linear warm-up, then linear decay to zero."""
    warm = WARMUP * steps
    return (step + 1) / (warm + 1) if step < warm else (steps - step) / (steps - warm)


def loss_of(model: Gpt, inputs_BS: Tensor, targets_BS: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs_BS).flatten(0, 1), targets_BS.flatten())


def train(width: int, depth: int, tokens: int, lr: float, batches: dict[str, Tensor], seed: int = 0) -> float:
    """Return the held-out loss in nats per token; NaN if training diverged.

    Args:
        batches: `inputs` and `targets` are (steps, B, S); `held_out_inputs` and `held_out_targets` are (N, S).
    """
    steps = tokens // batches["inputs"][0].numel()
    model = Gpt(width, depth)
    initialize(model, seed)
    optimizer = make_optimizer(model, lr, width)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    every = math.ceil(steps / POINTS)
    first = math.inf
    for step in range(steps):
        loss = loss_of(model, batches["inputs"][step], batches["targets"][step])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == steps - 1:
            first = loss.item() if step == 0 else first
            if not loss.item() <= DIVERGED * first:
                return math.nan
    with torch.no_grad():
        parts = zip(
            *(batches[f"held_out_{name}"].split(VALIDATION_BATCH) for name in ("inputs", "targets")), strict=True
        )
        return sum(len(inputs) * loss_of(model, inputs, targets).item() for inputs, targets in parts) / len(
            batches["held_out_inputs"]
        )


def run(width: int, depth: int, tokens: int, lr: float, folder: str) -> float:
    """Train a trial, write its result, and return its loss.

    The result has the loss, the start and end in seconds since 1970, and the thread's CPU time.
    """
    started, cpu_s = time.time(), time.thread_time()
    loss = train(width, depth, tokens, lr, torch.load(Path(folder, "batches.pt")))
    times = {"started": started, "ended": time.time(), "cpu_s": time.thread_time() - cpu_s}
    result = {"trial": [width, depth, tokens, lr], "loss": loss, **times}
    Path(folder, "results", f"{width}-{depth}-{tokens}-{lr}.json").write_text(json.dumps(result))
    return loss
