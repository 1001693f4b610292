"""A decoder-only transformer in plain PyTorch, written without hptransfer; nothing in it knows of a parameterization.

Letters: B sequences, S positions, D width, H heads, C size of a head, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM = 16


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        qkv_BS3HC = self.qkv(x_BSD).unflatten(-1, (3, -1, HEAD_DIM))
        q, k, v = qkv_BS3HC.permute(2, 0, 3, 1, 4)
        y_BHSC = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y_BHSC.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BSD)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD))
        return x_BSD + self.mlp(self.norm2(x_BSD))


class PlainTransformer(nn.Module):
    """Indices (B, S) -> logits (B, S, V). The width is a multiple of the head's size: heads grow in number."""

    def __init__(self, width: int, *, depth: int = 2, vocabulary: int = 256, positions: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, indices_BS: Tensor) -> Tensor:
        positions_S = torch.arange(indices_BS.shape[1], device=indices_BS.device)
        x_BSD = self.tokens(indices_BS) + self.positions(positions_S)
        return self.readout(self.norm(self.blocks(x_BSD)))
