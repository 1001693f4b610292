"""Number of trials that train as one, chosen by measured steps.

A step of a stack is a step of each of its trials. The ratio of its time to that of single steps depends on the device,
its threads and the sizes of the model. It is therefore measured where the job runs. Later jobs of the same shape find
this calibration in a file under $XDG_CACHE_HOME/hptransfer/stacks (~/.cache). If that cannot be read or written, the
calibration is repeated.
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

# Smallest relative gain over single trials for which a stack is used, and loss against the stack before it after which
# no larger one is measured. Two measurements of the same step, each the best of a few, differ by less. Between two
# stacks that both gain, the choice matters less.
MIN_GAIN = 0.05
MIN_GAIN_ON_STACK = 0.02
# Largest share of a job's training that a calibration may cost.
CALIBRATION_SHARE = 0.05
CALIBRATION_STEPS = 8
MIN_CALIBRATION_STEPS = 4
# Cost of building a stack, in its steps.
BUILD_STEPS = 2


def stack_sizes(trials: int) -> list[int]:
    """Return the stack sizes to try: powers of 2.

    The last is the first one that holds all trials.
    """
    return [2**power for power in range((trials - 1).bit_length() + 1)]


def split_stacks(trials: Sequence[str], size: int) -> list[list[str]]:
    """Split trials into the fewest stacks of at most `size`.

    Their sizes differ by at most one trial.
    """
    count = math.ceil(len(trials) / size)
    ends = [len(trials) * index // count for index in range(count + 1)]
    return [list(trials[start:end]) for start, end in itertools.pairwise(ends)]


def calibration_steps(steps: int, trials: int, *, gpu: bool) -> int:
    """Return the training steps with which each stack size is measured.

    A calibration costs at most CALIBRATION_SHARE of its job's training. On a CPU, a step of a stack is assumed to take
    as long as the separate steps of its trials, and the job likewise. On a GPU, where kernel launches may take all of
    the time, each is assumed to take as long as a step of one trial: the worst case for the share.

    Args:
        steps: training steps of each trial of the job.
        trials: number of trials of the job.

    Returns:
        At most CALIBRATION_STEPS, of which the first is for warm-up; 0 if there would be fewer than
        MIN_CALIBRATION_STEPS, because the job is too short.
    """
    tried = stack_sizes(trials)
    job, calibration = (steps, len(tried)) if gpu else (steps * trials, sum(tried))
    count = min(CALIBRATION_STEPS, math.floor(CALIBRATION_SHARE * job / calibration) - BUILD_STEPS)
    return count if count >= MIN_CALIBRATION_STEPS else 0


@dataclass(frozen=True)
class StackTimings:
    """Measured times of stacks of one shape on one device.

    Attributes:
        seconds: time of a step by stack size (1, 2, 4, ...); empty if nothing was measured.
        most: largest number of trials that fits in memory; None if memory was never full.
    """

    seconds: Mapping[int, float] = field(default_factory=dict)
    most: int | None = None

    def is_sufficient(self, trials: int) -> bool:
        """Test if a job needs no further measurement."""
        sizes = self.candidate_sizes(trials)
        return sizes == [1] or set(sizes) <= self.seconds.keys() or not all(map(self.pays, self.seconds))

    def candidate_sizes(self, trials: int) -> list[int]:
        """Return the stack sizes to try that may fit in memory."""
        return [size for size in stack_sizes(trials) if self.most is None or size <= self.most]

    def pays(self, size: int) -> bool:
        """Test if a larger stack may be faster per trial.

        It may be unless a trial's share of a step is clearly larger than at half the size.
        """
        return size == 1 or self.seconds[size] < (1 + MIN_GAIN) * 2 * self.seconds[size // 2]

    def best_size(self) -> int:
        """Return the size with the highest throughput.

        Larger stacks are preferred only above the minimum gains.
        """
        chosen = 1
        for size, seconds in sorted(self.seconds.items()):
            gain = MIN_GAIN if chosen == 1 else MIN_GAIN_ON_STACK
            if seconds / size < (1 - gain) * self.seconds[chosen] / chosen:
                chosen = size
        return chosen

    def limited_to(self, trials: int) -> StackTimings:
        """Return the same timings with a limit on trials in memory."""
        return replace(self, most=max(1, min(trials, self.most or trials)))


def calibrate(trials: int, known: StackTimings, measure: Callable[[int], float]) -> StackTimings:
    """Measure increasing stack sizes until the time per trial increases.

    Args:
        known: earlier timings, whose memory limit is respected.
        measure: return the seconds of a step of a stack of this size; raise MemoryError if it does not fit in memory.
    """
    timings = StackTimings({}, known.most)
    for size in timings.candidate_sizes(trials):
        try:
            timings = replace(timings, seconds={**timings.seconds, size: measure(size)})
        except MemoryError:
            return timings.limited_to(size // 2)
        if not timings.pays(size):
            break
    return timings


# --- the file ---


def read_timings(conditions: Mapping[str, Any]) -> StackTimings:
    """Read earlier timings; they are empty if the file cannot be read.

    Args:
        conditions: the device, and everything else on which the time of a step depends.
    """
    try:
        path = _timings_path(conditions)
        values = read_json(path, "seconds", "most")
        with reading(path):
            return _timings_from_json(values)
    except (OSError, RuntimeError, RunFolderError):  # RuntimeError: the user has no home
        return StackTimings()


def write_timings(conditions: Mapping[str, Any], timings: StackTimings) -> None:
    """Write timings for later jobs, atomically.

    If two workers measure at the same time, the file of one of them remains.
    """
    seconds = {str(size): seconds for size, seconds in timings.seconds.items()}
    with contextlib.suppress(OSError, RuntimeError):
        path = _timings_path(conditions)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": seconds, "most": timings.most, "about": conditions})


def _timings_path(conditions: Mapping[str, Any]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = cache if cache.is_absolute() else Path("~/.cache").expanduser()
    return home / "hptransfer" / "stacks" / f"{digest(conditions)}.json"


def _timings_from_json(values: Mapping[str, Any]) -> StackTimings:
    seconds = {int(size): float(seconds) for size, seconds in values["seconds"].items()}
    most = values["most"]
    if seconds and sorted(seconds) != stack_sizes(max(seconds)):
        raise ValueError(f"sizes {sorted(seconds)}")
    if not all(0 < duration < math.inf for duration in seconds.values()):
        raise ValueError(f"seconds {sorted(seconds.values())}")
    if most is not None and not (isinstance(most, int) and most >= 1):
        raise ValueError(f"most {most!r}")
    return StackTimings(seconds, most)
