"""Does the best learning rate of a plain transformer stay as it widens? Under muP, and as a control without.

    python examples/sweep_plain_transformer.py --out sweep            # ten minutes on two cores
    hptransfer analyze --table sweep/mup.csv --scale width --tune lr --targets sweep/targets.csv --out sweep/mup

Trains `PlainTransformer` on the bytes of Python's own standard library at every width and rate, and writes mup.csv and
sp.csv: columns width, lr, loss, params, parameterization, seed. `hptransfer analyze` fits how the best rate moves.
"""

import argparse
import csv
import itertools
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from plain_transformer import PlainTransformer
from torch import Tensor

import hptransfer

BASE_WIDTH = 32
POSITIONS = 64
BATCH = 8


@dataclass(frozen=True)
class Trial:
    parameterization: str
    width: int
    lr: float
    seed: int
    steps: int


def text() -> Tensor:
    """Bytes of the standard library, a megabyte and a half of them."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    joined = b"".join(path.read_bytes() for path in files)[:1_500_000]
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


def windows(data: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices and the next ones, both (count, POSITIONS)."""
    starts = torch.randint(len(data) - POSITIONS - 1, (count, 1), generator=torch.Generator().manual_seed(seed))
    found = data[starts + torch.arange(POSITIONS + 1)]
    return found[:, :-1], found[:, 1:]


def train(trial: Trial) -> dict[str, float | str]:
    """One run: a row of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(trial.seed)
    data = text()
    model = PlainTransformer(trial.width)
    # The one call. Under "sp" it changes nothing: one rate for all, and the model's own first values.
    groups = hptransfer.parameterize(
        model,
        make=PlainTransformer,
        base=BASE_WIDTH,
        parameterization=trial.parameterization,
        optimizer="adamw",
        lr=trial.lr,
    )
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / trial.steps))
    losses = []
    for step in range(trial.steps):
        loss = loss_of(model, windows(data, BATCH, seed=step))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    last = losses[-max(1, trial.steps // 4) :]  # of text that is new to the model: much less than one pass
    params = sum(parameter.numel() for parameter in model.parameters())
    return {
        "width": trial.width,
        "lr": trial.lr,
        "loss": sum(last) / len(last),
        "params": params,
        "parameterization": trial.parameterization,
        "seed": trial.seed,
    }


def loss_of(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def factor(progress: float, warmup: float = 0.2) -> float:
    """Of the learning rate: up in a line, and down again."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sweep"))
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--log2-lr", type=float, nargs="+", default=[-10, -9, -8, -7, -6, -5, -4])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    trials = [
        Trial(parameterization, width, 2.0**log2_lr, seed, args.steps)
        for parameterization, width, log2_lr, seed in itertools.product(
            ("mup", "sp"), args.widths, args.log2_lr, range(args.seeds)
        )
    ]
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(train, trials))
    args.out.mkdir(parents=True, exist_ok=True)
    for parameterization in ("mup", "sp"):
        with (args.out / f"{parameterization}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row for row in rows if row["parameterization"] == parameterization)
    (args.out / "targets.csv").write_text(f"width\n{2 * max(args.widths)}\n")


if __name__ == "__main__":
    main()
