"""Settings of all trials, executed by configurator.py: a trial's checkpoint is in its own folder."""

import os
from pathlib import Path

eval_interval = 50
out_dir = os.environ["HPTRANSFER_TRIAL_DIR"] + "/out"
init_from = "resume" if Path(out_dir, "ckpt.pkl").exists() else "scratch"
