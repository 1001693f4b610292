"""All trials in turn in this process.

    python loop.py FOLDER

The folder contains trials.json.
"""

import json
import sys
from pathlib import Path

from train import run

folder = sys.argv[1]
for trial in json.loads(Path(folder, "trials.json").read_text()):
    run(*trial, folder)
