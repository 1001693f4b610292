"""Settings of launcher=slurm, and what they mean for a job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Job, Number
from hptransfer.launchers import LauncherConfig, check_stack
from hptransfer.launchers.slurm.resources import (
    Resources,
    check_line,
    check_resources,
    job_names,
    limit_minutes,
    resolve_resources,
)

FLAG = re.compile(r"[a-z][a-z0-9_-]*")
# A signal for the batch process, which is the worker, that is not the one it listens to.
DEADLY = re.compile(r"[Rr]?B[Rr]?:(?!(SIG)?USR2\b|12\b)")
RESERVED = {
    "array": "jobs are put into arrays; launcher.max_running bounds how many run at a time",
    "error": "what a job prints goes to jobs/<job>.log; set output for what SLURM itself says",
    "job-name": "jobs are found by their names; the sweep's name is part of it",
    "parsable": "the answer of sbatch is read as it is",
    "test-only": "use `hptransfer sweep --dry-run`",
    "time": "set launcher.time, which the worker has to know too; null removes it",
    "wait": "the driver waits by itself",
    "wrap": "launcher.setup and launcher.wrapper take shell text",
}
POSITIVE = (
    "max_attempts",
    "checkpoint_s",
    "max_jobs",
    "time_margin",
    "min_time",
    "signal_s",
    "poll_min_s",
    "lost_after_s",
    "exclude_after",
    "driver_time",
)
NOT_NEGATIVE = ("max_running", "grace_s", "fast_failure_s", "max_excluded")


@dataclass(kw_only=True)
class SlurmSettings(LauncherConfig):
    """What a sweep file says under `launcher` with launcher=slurm."""

    is_cluster = True

    name: str = "slurm"
    gpus: Any = 0
    """Of each node. A number, or a rule such as "1 + params // 1e9", as are nodes, tasks, cpus, memory and time: over
    the scale's axes, params, tokens, flops, trials, seconds (as estimated) and attempt; what it gives is rounded up."""
    nodes: Any = 1
    tasks: Any = 1
    """On each node. The worker runs once, on the first; a command that needs them all starts them by srun."""
    cpus: Any = 1
    """Of each task."""
    memory: Any = None
    """GiB of each node, a rule, or SLURM's notation such as 500M; null leaves it to the cluster."""
    time: Any = None
    """Minutes, a rule, or SLURM's notation such as 1:30:00; null goes by the estimate, if there is one."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    by_scale: list[Any] = field(default_factory=list)
    """Rows such as {when: width >= 1024, gpus: 4, time: 600}: the first whose `when` holds, or that has none,
    overrides the settings above."""
    time_margin: float = 3.0
    """Time limit over the estimated time of a job, where `time` is null."""
    min_time: int = 10
    """Minutes that such a limit has at least."""
    signal_s: int = 120
    """Seconds before the time limit that a job is told of it; at most a tenth of the limit."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Any other flag of sbatch, such as mail-type: END; true for one without a value, null removes one."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell before the worker, such as "module load cuda"."""
    python: str | None = None
    """Shell text that starts the interpreter of the jobs; null: that of the driver."""
    wrapper: str = ""
    """Shell text in front of the interpreter, such as "apptainer exec --nv image.sif"."""
    container_image: str | None = None
    """The flag --container-image, where the cluster has it."""
    max_jobs: int = 1000
    """Jobs in the queue, waiting or running."""
    max_running: int = 0
    """Jobs that run at a time; 0: no bound but the cluster's."""
    poll_min_s: float = 30.0
    """Seconds between two questions to the scheduler while states change."""
    poll_max_s: float = 300.0
    """Seconds that the pause grows to while nothing changes."""
    lost_after_s: float = 600.0
    """Seconds after which a job that neither accounting nor the queue knows counts as gone."""
    grace_s: float = 2.0
    """Seconds that a job has to end after the outcome of its last trial."""
    fast_failure_s: float = 60.0
    """A job whose process fails within so many seconds speaks against its node."""
    exclude_after: int = 3
    """Such failures in a row for which a node is excluded, if jobs work elsewhere."""
    max_excluded: int = 4
    """Nodes excluded at most; 0: none ever."""
    driver_time: int = 1440
    """Under driver=slurm: minutes that the driver's own job may take; it is queued again when they are over."""
    driver_partition: str | None = None
    """Under driver=slurm: its partition."""
    driver_memory: float = 4.0
    """Under driver=slurm: GiB."""
    driver_sbatch: dict[str, Any] = field(default_factory=dict)
    """Under driver=slurm: further flags of sbatch; null removes one."""

    def check(self, place: str) -> None:
        for key in (*POSITIVE, *NOT_NEGATIVE):
            value, least = getattr(self, key), "above 0" if key in POSITIVE else "at least 0"
            if not (value > 0 if key in POSITIVE else value >= 0):
                raise ConfigError(f"{place}.{key} must be {least}, got {value}")
        if not self.poll_min_s <= self.poll_max_s:
            raise ConfigError(
                f"{place}.poll_max_s must be at least poll_min_s ({self.poll_min_s:g}), got {self.poll_max_s:g}"
            )
        check_resources(asdict(self), self.by_scale, place)
        for number, line in enumerate(self.setup):
            check_line(line, f"{place}.setup[{number}]")
            if str(line).lstrip().startswith("#SBATCH"):
                raise ConfigError(f"{place}.setup[{number}]: flags go under {place}.sbatch, got {line!r}")
        for key in ("python", "wrapper", "container_image", "driver_partition"):
            check_line(getattr(self, key), f"{place}.{key}")
        check_stack(self.stack, place)
        _check_flags(self.sbatch, f"{place}.sbatch")
        _check_flags(self.driver_sbatch, f"{place}.driver_sbatch")

    def num_slots(self, gpus: int) -> int:
        return min(self.max_jobs, self.max_running or self.max_jobs)

    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        found = self.resources(job, tokens)
        return found.nodes * max(1, found.gpus)

    def num_threads(self) -> int:
        return self.cpus if isinstance(self.cpus, int) else 1

    def has_gpu(self, gpus: int) -> bool:
        """A rule asks for some, at some scale; so does a flag, whatever its value."""
        asked = [self.gpus, *(row.get("gpus") for row in self.by_scale)]
        return any(asked) or any(name == "gres" or name.startswith("gpus") for name in self.flags)

    @property
    def flags(self) -> Mapping[str, Any]:
        """All that is given as flags, with names as sbatch writes them."""
        image = {} if self.container_image is None else {"container-image": self.container_image}
        return image | {name.replace("_", "-"): value for name, value in self.sbatch.items()}

    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        for job, tokens in jobs:
            self.resources(job, tokens)

    def resources(self, job: Job, tokens: Number | None) -> Resources:
        """What a job is to ask for.

        Raises:
            ConfigError: a rule has no value for this job.
        """
        settings = asdict(self)
        rows = [dict(row) for row in self.by_scale]
        found = resolve_resources(settings, rows, job_names(job, tokens), "launcher")
        if "time" in self.flags:  # only null gets past the check
            return Resources(**{**asdict(found), "minutes": None})
        if found.minutes is None and job.seconds is not None:
            limit = limit_minutes(job.seconds, margin=self.time_margin, least=self.min_time)
            return Resources(**{**asdict(found), "minutes": limit})
        return found

    def named(self, key: str) -> set[str]:
        """All values of a text resource, such as the accounts that jobs may be charged to."""
        values = [asdict(self)[key], *(row.get(key) for row in self.by_scale)]
        return {str(value) for value in values if value is not None}


def _check_flags(flags: Mapping[str, Any], place: str) -> None:
    for name, value in flags.items():
        if not FLAG.fullmatch(str(name)):
            raise ConfigError(f"{place}: {name!r} is no flag of sbatch; write it as mail-type: END")
        plain = str(name).replace("_", "-")
        if len(plain) == 1:
            raise ConfigError(f"{place}: {name!r} is a short flag; write its long name, such as partition for p")
        if plain in RESERVED and not (plain == "time" and value is None):
            raise ConfigError(f"{place}.{name} cannot be set: {RESERVED[plain]}")
        check_line(value, f"{place}.{name}")
        if plain == "signal" and DEADLY.match(str(value)):
            raise ConfigError(
                f"{place}.{name} must leave USR2 to the worker, which other signals end, got {value!r}; "
                f"launcher.signal_s says how early it is told, and without B: a signal goes to what srun started"
            )
