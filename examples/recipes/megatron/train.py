"""A trainer with the flags and the log of Megatron-LM, without any code for hptransfer.

python examples/recipes/megatron/train.py --hidden-size 64 --lr 0.01 --train-iters 100
"""

import argparse
import pickle
import signal
import sys
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--hidden-size", type=int, required=True)
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--min-lr", type=float, default=0.0)
parser.add_argument("--train-iters", type=int, required=True)
parser.add_argument("--global-batch-size", type=int, default=64)
parser.add_argument("--seed", type=int, default=1234)
parser.add_argument("--log-interval", type=int, default=100)
parser.add_argument("--save-interval", type=int, default=100)
parser.add_argument("--save", type=Path)
parser.add_argument("--load", type=Path)
parser.add_argument("--exit-signal-handler", action="store_true")
args = parser.parse_args()
received = []
if args.exit_signal_handler:
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))

# A readout of random features learns from a fixed function, by SGD with momentum.
features = np.random.default_rng(args.seed).standard_normal((16, args.hidden_size))
state = {"iteration": 0, "weights": np.zeros(args.hidden_size), "momentum": np.zeros(args.hidden_size), "losses": []}
if args.load and (args.load / "state.pkl").exists():
    state = pickle.loads((args.load / "state.pkl").read_bytes())
for iteration in range(state["iteration"] + 1, args.train_iters + 1):
    points = np.random.default_rng([args.seed, iteration]).standard_normal((args.global_batch_size, 16))
    hidden = np.tanh(points @ features)
    errors = hidden @ state["weights"] - np.sin(points).sum(1)
    lr = args.min_lr + (args.lr - args.min_lr) * (1 - (iteration - 1) / args.train_iters)
    state["momentum"] = 0.9 * state["momentum"] + hidden.T @ errors / len(points)
    state |= {"iteration": iteration, "weights": state["weights"] - lr * state["momentum"]}
    state["losses"] = [*state["losses"], np.mean(errors**2)][-args.log_interval :]
    if iteration % args.log_interval == 0:
        print(
            f" iteration {iteration:8d}/{args.train_iters:8d} | learning rate: {lr:.6E} | lm loss: "
            f"{np.mean(state['losses']):.6E} | number of skipped iterations:   0 | "
            f"number of nan iterations: {int(not np.isfinite(state['losses'][-1])):3d} |",
            flush=True,
        )
    if args.save and (received or iteration % args.save_interval == 0):
        args.save.mkdir(exist_ok=True)
        (args.save / "unfinished.pkl").write_bytes(pickle.dumps(state))
        (args.save / "unfinished.pkl").replace(args.save / "state.pkl")
    if received:
        sys.exit()
