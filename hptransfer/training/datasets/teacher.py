"""Teacher-student: random points classified by a random two-layer ReLU network.

The network is fixed; no point is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.training.datasets import DATASETS, FEATURES, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._online import Task, Values, random_stream, require_at_least


@DATASETS.register("teacher")
@dataclass(kw_only=True)
class TeacherConfig(DataConfig):
    """Settings of the teacher.

    The label of x is argmax_c of (relu(x W) V)_c. W (I, H) and V (H, C) have independent N(0, 1) entries. A label does
    not depend on the scale of either matrix. Units that are never negative make some classes more frequent than others.
    """

    name: str = "teacher"
    inputs: int = 16
    """Dimensions of the points, N(0, 1) each; at least 1."""
    hidden: int = 64
    """Number of ReLU units of the teacher; at least 1."""
    classes: int = 8
    """Number of outputs of the teacher; at least 2."""
    task_seed: int = 0
    """Seed of the teacher; at least 0."""

    def shape(self, sequence: int) -> DataShape:
        self.require_no_positions(sequence)
        require_at_least(0, task_seed=self.task_seed)
        require_at_least(1, inputs=self.inputs, hidden=self.hidden)
        require_at_least(2, classes=self.classes)
        return DataShape(kind=FEATURES, inputs=(self.inputs,), outputs=self.classes)

    def load(self) -> Dataset:
        random = random_stream(self.task_seed, purpose=0)
        w_IH = random.standard_normal((self.inputs, self.hidden))
        v_HC = random.standard_normal((self.hidden, self.classes))

        def draw(random: np.random.Generator, count: int) -> tuple[Values, NDArray[np.int64]]:
            x_BI = random.standard_normal((count, self.inputs))
            outputs_BC = np.maximum(x_BI @ w_IH, 0) @ v_HC
            return x_BI, outputs_BC.argmax(axis=1)[:, None]

        return Task(draw, settings=repr(self))
