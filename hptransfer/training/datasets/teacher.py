"""Teacher-student: random points, classified by a fixed random two-layer ReLU network; no point comes twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.training.datasets import DATASETS, FEATURES, DataConfig, Dataset, Shape
from hptransfer.training.datasets._online import Task, Values, at_least, stream


@DATASETS.register("teacher")
@dataclass(kw_only=True)
class TeacherConfig(DataConfig):
    """The label of x is argmax_c of (relu(x W) V)_c, W (I, H) and V (H, C) having independent N(0, 1) entries.

    A label does not depend on the scale of either matrix. Units that are never negative make some
    classes more frequent than others.
    """

    name: str = "teacher"
    inputs: int = 16
    """Dimensions of the points, N(0, 1) each; at least 1."""
    hidden: int = 64
    """ReLU units of the teacher; at least 1."""
    classes: int = 8
    """Outputs of the teacher; at least 2."""
    task_seed: int = 0
    """Draws the teacher; at least 0."""

    def shape(self, sequence: int) -> Shape:
        self.without_positions(sequence)
        at_least(0, task_seed=self.task_seed)
        at_least(1, inputs=self.inputs, hidden=self.hidden)
        at_least(2, classes=self.classes)
        return Shape(kind=FEATURES, inputs=(self.inputs,), outputs=self.classes)

    def load(self) -> Dataset:
        random = stream(self.task_seed, purpose=0)
        w_IH = random.standard_normal((self.inputs, self.hidden))
        v_HC = random.standard_normal((self.hidden, self.classes))

        def draw(random: np.random.Generator, count: int) -> tuple[Values, NDArray[np.int64]]:
            x_BI = random.standard_normal((count, self.inputs))
            outputs_BC = np.maximum(x_BI @ w_IH, 0) @ v_HC
            return x_BI, outputs_BC.argmax(axis=1)[:, None]

        return Task(draw, settings=repr(self))
