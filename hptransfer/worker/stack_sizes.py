"""How many trials train as one: chosen by measured steps, which are kept by device and shape.

A step of a stack is a step of each of its trials. Whether it takes less time than theirs one after another goes by the
device, its threads and the model's sizes, so it is measured where the job runs: a calibration, which later jobs of the
same shape find in a file of its own under $XDG_CACHE_HOME/hptransfer/stacks (~/.cache). What cannot be read or written
there is measured again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, reading, write_json
from hptransfer.core.records import digest

# What a stack has to gain on trials alone to be taken, and to lose on the one before to be the last that is tried: two
# measurements of one thing differ by less, each the best of a few steps. Of two stacks that gain, which matters less.
GAIN = 0.05
GAIN_ON_STACK = 0.02
# Of a job's training, what a calibration may cost.
SHARE = 0.05
STEPS = 8
FEWEST_STEPS = 4
# What it takes to build a stack, in its steps.
BUILD_STEPS = 2


def sizes(trials: int) -> list[int]:
    """Stacks to try for a job of so many trials: 1, 2, 4 and so on, up to the first that holds them all."""
    return [2**power for power in range((trials - 1).bit_length() + 1)]


def split(trials: Sequence[str], size: int) -> list[list[str]]:
    """As few stacks as do, none larger than `size`, which differ by one trial at most."""
    count = math.ceil(len(trials) / size)
    ends = [len(trials) * index // count for index in range(count + 1)]
    return [list(trials[start:end]) for start, end in itertools.pairwise(ends)]


def steps_each(steps: int, trials: int, *, gpu: bool) -> int:
    """Training steps to measure each size by, so that a calibration costs at most SHARE of its job's training.

    On a CPU a step of a stack is counted as long as those of its trials one after another, and the job likewise. On a
    GPU, where launches may be all that takes time, each is counted as one trial's: the worst case for the share.

    Args:
        steps: that each trial of the job trains for.
        trials: of the job.

    Returns:
        STEPS at most, the first of them to warm up; 0 if that would be fewer than FEWEST_STEPS: the job is too short.
    """
    tried = sizes(trials)
    job, each = (steps, len(tried)) if gpu else (steps * trials, sum(tried))
    found = min(STEPS, math.floor(SHARE * job / each) - BUILD_STEPS)
    return found if found >= FEWEST_STEPS else 0


@dataclass(frozen=True)
class StackTimings:
    """What is known of stacks of one shape on one device.

    Attributes:
        seconds: of a step, by the size of the stack: 1, 2, 4 and so on; none if nothing was measured.
        most: trials that memory holds at a time; None while it was never short.
    """

    seconds: Mapping[int, float] = field(default_factory=dict)
    most: int | None = None

    def answers(self, trials: int) -> bool:
        """Whether there is nothing to measure, or to choose, for a job of so many trials."""
        wanted = self.wanted(trials)
        return wanted == [1] or set(wanted) <= self.seconds.keys() or not all(map(self.pays, self.seconds))

    def wanted(self, trials: int) -> list[int]:
        """The sizes to try that memory may hold."""
        return [size for size in sizes(trials) if self.most is None or size <= self.most]

    def pays(self, size: int) -> bool:
        """Whether a trial's share of a step is not larger, for sure, in a stack than in one of half its size."""
        return size == 1 or self.seconds[size] < (1 + GAIN) * 2 * self.seconds[size // 2]

    def best(self) -> int:
        """The size with the most trial-steps a second; a stack has to gain as said above."""
        chosen = 1
        for size, seconds in sorted(self.seconds.items()):
            gain = GAIN if chosen == 1 else GAIN_ON_STACK
            if seconds / size < (1 - gain) * self.seconds[chosen] / chosen:
                chosen = size
        return chosen

    def but_most(self, trials: int) -> StackTimings:
        """The same, once memory was seen to hold no more than so many trials."""
        return replace(self, most=max(1, min(trials, self.most or trials)))


def calibrate(trials: int, known: StackTimings, measure: Callable[[int], float]) -> StackTimings:
    """Measures ever larger stacks until one is slower, by the trial, than the one before.

    Args:
        known: what memory is known not to hold is not tried.
        measure: seconds of a step of a stack of that size; MemoryError if memory does not hold it.
    """
    found = StackTimings({}, known.most)
    for size in found.wanted(trials):
        try:
            found = replace(found, seconds={**found.seconds, size: measure(size)})
        except MemoryError:
            return found.but_most(size // 2)
        if not found.pays(size):
            break
    return found


# --- the file ---


def recall(about: Mapping[str, Any]) -> StackTimings:
    """What was measured before; nothing if that cannot be read.

    Args:
        about: the device, and everything else that the time of a step hangs on.
    """
    try:
        path = _path(about)
        values = read_json(path, "seconds", "most")
        with reading(path):
            return _from_json(values)
    except (OSError, RuntimeError, RunFolderError):  # the second where a user has no home
        return StackTimings()


def remember(about: Mapping[str, Any], measured: StackTimings) -> None:
    """Writes it for later jobs, in one step: of two workers that measured at a time, one is believed."""
    seconds = {str(size): seconds for size, seconds in measured.seconds.items()}
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(about)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": seconds, "most": measured.most, "about": about})


def _path(about: Mapping[str, Any]) -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = named if named.is_absolute() else Path("~/.cache").expanduser()
    return home / "hptransfer" / "stacks" / f"{digest(about)}.json"


def _from_json(values: Mapping[str, Any]) -> StackTimings:
    seconds = {int(size): float(seconds) for size, seconds in values["seconds"].items()}
    most = values["most"]
    if seconds and sorted(seconds) != sizes(max(seconds)):
        raise ValueError(f"sizes {sorted(seconds)}")
    if not all(0 < one < math.inf for one in seconds.values()):
        raise ValueError(f"seconds {sorted(seconds.values())}")
    if most is not None and not (isinstance(most, int) and most >= 1):
        raise ValueError(f"most {most!r}")
    return StackTimings(seconds, most)
