"""All trials in a pool of processes: python pool.py FOLDER PROCESSES."""

import json
import multiprocessing
import sys
from pathlib import Path

from train import run

if __name__ == "__main__":
    folder, processes = sys.argv[1], int(sys.argv[2])
    trials = json.loads(Path(folder, "trials.json").read_text())
    with multiprocessing.Pool(processes) as pool:
        pool.starmap(run, [(*trial, folder) for trial in trials], chunksize=1)
