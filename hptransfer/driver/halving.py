"""Successive halving: stop trials that fall behind; off by default.

Optuna's SuccessiveHalvingPruner decides (asynchronous successive halving, Li et al. 2018, arXiv:1810.05934). It
compares trials of one scale and one seed at the same tokens: they see the same batches from the same first weights.
A trial whose point is next to that of the leading trial is never pruned, because the sweep measures the shape of the
loss around the best point.

The studies are in memory alone. A driver that restarts reads the curves again in the order in which their points were
written. It reaches the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna

from hptransfer.config.sweep import HalvingConfig
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import LOSS, Number, Objective, Scale, Trial
from hptransfer.core.run_folder import RunFolder

CurvePoint = Mapping[str, Any]


class SuccessiveHalving:
    """Comparison of the curves of a sweep's trials.

    Args:
        halving: settings with a share.
        tokens: number of tokens that a trial of each scale is trained on.
        steps: distance between the points of two trials of a scale, in steps of its grid.
    """

    def __init__(
        self,
        folder: RunFolder,
        halving: HalvingConfig,
        tokens: Mapping[Scale, Number],
        steps: Callable[[Trial, Trial], int],
        objective: Objective = LOSS,
    ) -> None:
        assert halving.share is not None
        self._folder, self._factor, self._sides, self._steps = folder, halving.factor, halving.sides, steps
        self._objective = objective
        self._first = {scale: max(1, math.ceil(halving.share * number)) for scale, number in tokens.items()}
        self._last = dict(tokens)
        self._studies: dict[tuple[Scale, int], optuna.Study] = {}
        self._optuna_trials: dict[str, optuna.Trial] = {}
        self._sizes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._pruned: set[str] = set()
        self._leaders: dict[tuple[Scale, int, int], tuple[float, Trial]] = {}

    def pruned(self, trials: Iterable[Trial]) -> dict[str, CurvePoint]:
        """Return trials that are to stop, with the deciding curve point.

        A trial is returned once. Trials that have ended belong here too: others are compared with them.
        """
        decided = {}
        for trial, point in sorted(self._new_points(trials), key=lambda pair: float(pair[1]["time"])):
            self._tokens[trial.id] = point["tokens"]
            if trial.id in self._pruned:
                continue
            optuna_trial = self._optuna_trial(trial)
            optuna_trial.report(self._objective.minimized(point["loss"]), step=point["tokens"])
            leader = self._leader(trial, point)
            if optuna_trial.should_prune() and self._steps(trial, leader) > self._sides:
                self._pruned.add(trial.id)
                decided[trial.id] = point
        return decided

    def _new_points(self, trials: Iterable[Trial]) -> Iterator[tuple[Trial, CurvePoint]]:
        """Points of curves that were written since the last call.

        Points before the first comparison and at the end are left out.
        """
        for trial in trials:
            path = self._folder.curve_path(trial.id)
            size = path.stat().st_size if path.exists() else 0
            if size == self._sizes.get(trial.id, 0):
                continue
            self._sizes[trial.id] = size
            compared = max(self._first[trial.scale] - 1, self._tokens.get(trial.id, 0))
            for point in read_jsonl(path):
                if compared < point["tokens"] < self._last[trial.scale] and point["loss"] is not None:
                    yield trial, point

    def _leader(self, trial: Trial, point: CurvePoint) -> Trial:
        """The trial of the best loss at this point so far."""
        key, loss = (trial.scale, trial.seed, int(point["tokens"])), self._objective.minimized(point["loss"])
        if key not in self._leaders or loss < self._leaders[key][0]:
            self._leaders[key] = loss, trial
        return self._leaders[key][1]

    def _optuna_trial(self, trial: Trial) -> optuna.Trial:
        """Optuna's counterpart of a trial."""
        if trial.id not in self._optuna_trials:
            self._optuna_trials[trial.id] = self._study(trial.scale, trial.seed).ask()
        return self._optuna_trials[trial.id]

    def _study(self, scale: Scale, seed: int) -> optuna.Study:
        if (scale, seed) not in self._studies:
            pruner = optuna.pruners.SuccessiveHalvingPruner(self._first[scale], self._factor)
            sampler = optuna.samplers.RandomSampler(seed=0)  # never asked for a value
            self._studies[scale, seed] = optuna.create_study(sampler=sampler, pruner=pruner)
        return self._studies[scale, seed]
