"""Successive halving: of the trials of a scale, those that are behind stop early. Off unless the sweep asks for it.

Optuna's SuccessiveHalvingPruner decides (asynchronous successive halving, Li et al. 2018, arXiv:1810.05934). It
compares trials of one scale and one seed, which see the same batches from the same first weights, at the same tokens.
One whose setting is next to that of the trial that leads there goes on whatever it decides, as the shape of the loss
around the best is what the sweep is for.

The studies are in memory alone: a driver that starts anew reads the curves again, in the order in which their points
were written, and is where the one before it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import optuna

from hptransfer.config.sweep import HalvingConfig
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import Number, Scale, Trial
from hptransfer.core.run_folder import RunFolder

Point = Mapping[str, Any]


class SuccessiveHalving:
    """What the curves of a sweep's trials have said so far.

    Args:
        halving: with a share.
        tokens: that a trial of a scale is trained on.
        steps: how far the settings of two trials of a scale are from each other, in steps of its grid.
    """

    def __init__(
        self,
        folder: RunFolder,
        halving: HalvingConfig,
        tokens: Mapping[Scale, Number],
        steps: Callable[[Trial, Trial], int],
    ) -> None:
        assert halving.share is not None
        self._folder, self._factor, self._sides, self._steps = folder, halving.factor, halving.sides, steps
        self._first = {scale: max(1, math.ceil(halving.share * number)) for scale, number in tokens.items()}
        self._last = dict(tokens)
        self._studies: dict[tuple[Scale, int], optuna.Study] = {}
        self._shown: dict[str, optuna.Trial] = {}
        self._sizes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._behind: set[str] = set()
        self._leaders: dict[tuple[Scale, int, int], tuple[float, Trial]] = {}

    def behind(self, trials: Iterable[Trial]) -> dict[str, Point]:
        """Of these trials those that are to stop by what their curves say now, with the point that decided.

        A trial is named once. One that has ended is of use too: others are compared with it.
        """
        found = {}
        for trial, point in sorted(self._news(trials), key=lambda news: float(news[1]["time"])):
            self._tokens[trial.id] = point["tokens"]
            if trial.id in self._behind:
                continue
            shown = self._show(trial)
            shown.report(point["loss"], step=point["tokens"])
            leader = self._leader(trial, point)
            if shown.should_prune() and self._steps(trial, leader) > self._sides:
                self._behind.add(trial.id)
                found[trial.id] = point
        return found

    def _news(self, trials: Iterable[Trial]) -> Iterator[tuple[Trial, Point]]:
        """Points that were not there at the last look; neither before the first comparison, nor at the end."""
        for trial in trials:
            path = self._folder.curve_path(trial.id)
            size = path.stat().st_size if path.exists() else 0
            if size == self._sizes.get(trial.id, 0):
                continue
            self._sizes[trial.id] = size
            seen = max(self._first[trial.scale] - 1, self._tokens.get(trial.id, 0))
            for point in read_jsonl(path):
                if seen < point["tokens"] < self._last[trial.scale] and point["loss"] is not None:
                    yield trial, point

    def _leader(self, trial: Trial, point: Point) -> Trial:
        """The trial of the lowest loss so far at this point of the curves."""
        key = trial.scale, trial.seed, int(point["tokens"])
        if key not in self._leaders or point["loss"] < self._leaders[key][0]:
            self._leaders[key] = point["loss"], trial
        return self._leaders[key][1]

    def _show(self, trial: Trial) -> optuna.Trial:
        """Optuna's trial for one of ours."""
        if trial.id not in self._shown:
            self._shown[trial.id] = self._study(trial.scale, trial.seed).ask()
        return self._shown[trial.id]

    def _study(self, scale: Scale, seed: int) -> optuna.Study:
        if (scale, seed) not in self._studies:
            pruner = optuna.pruners.SuccessiveHalvingPruner(self._first[scale], self._factor)
            sampler = optuna.samplers.RandomSampler(seed=0)  # which is never asked for a value
            self._studies[scale, seed] = optuna.create_study(sampler=sampler, pruner=pruner)
        return self._studies[scale, seed]
