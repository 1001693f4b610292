"""Settings of launcher=slurm, and the resources of a job by them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Job, Number
from hptransfer.launchers import LauncherConfig, check_stack_limit
from hptransfer.launchers.slurm.job_resources import (
    Resources,
    check_line,
    check_resources,
    job_names,
    limit_minutes,
    resolve_resources,
)

FLAG = re.compile(r"[a-z][a-z0-9_-]*")
# A signal other than USR2 for the batch process, which is the worker and is killed by it.
FATAL_SIGNAL = re.compile(r"[Rr]?B[Rr]?:(?!(SIG)?USR2\b|12\b)")
RESERVED_FLAGS = {
    "array": "jobs are put into arrays; launcher.max_running limits the number of running jobs",
    "error": "the output of a job goes to jobs/<job>.log; set output for the messages of SLURM itself",
    "job-name": "jobs are found by their names, which contain the name of the sweep",
    "parsable": "the answer of sbatch is read in its default form",
    "test-only": "use `hptransfer sweep --dry-run`",
    "time": "set launcher.time, which the worker must know too; null removes it",
    "wait": "the driver waits by itself",
    "wrap": "use launcher.setup and launcher.wrapper for shell text",
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
    "driver_memory",
)
NOT_NEGATIVE = ("max_running", "grace_s", "fast_failure_s", "max_excluded")


@dataclass(kw_only=True)
class SlurmSettings(LauncherConfig):
    """Settings under `launcher` of a sweep file with launcher=slurm."""

    is_cluster = True

    name: str = "slurm"
    gpus: Any = 0
    """GPUs per node: a number, or a rule such as "1 + params // 1e9". Rules are also allowed for nodes, tasks, cpus,
    memory and time. They may use the scale's axes, params, tokens, flops, trials, seconds (the estimate) and attempt;
    their values are rounded up."""
    nodes: Any = 1
    """Nodes of a job."""
    tasks: Any = 1
    """Tasks per node. The worker runs once, on the first node; a command that needs all tasks starts them with srun."""
    cpus: Any = 1
    """Cores per task."""
    memory: Any = None
    """GiB per node, a rule, or SLURM's notation such as 500M; null for the cluster's default."""
    time: Any = None
    """Time limit in minutes, a rule, or SLURM's notation in quotes, such as "1:30:00" or "1-12:00:00"; null derives it
    from the estimated time, if there is one."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    by_scale: list[Any] = field(default_factory=list)
    """Rows such as {when: width >= 1024, gpus: 4, time: 600}. The first row whose `when` holds overrides the settings
    above. A row without `when` always holds."""
    time_margin: float = 3.0
    """Ratio of the time limit to the estimated time of a job, if `time` is null."""
    min_time: int = 10
    """Smallest time limit in minutes, if `time` is null."""
    signal_s: int = 120
    """Seconds before the time limit at which a job is warned; at most a tenth of the limit."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further flags of sbatch, such as mail-type: END; true for a flag without a value, null to remove a flag."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell that run before the worker, such as "module load cuda"."""
    python: str | None = None
    """Shell text that starts the interpreter of the jobs; null for the driver's interpreter."""
    wrapper: str = ""
    """Shell text in front of the interpreter, such as "apptainer exec --nv image.sif"."""
    container_image: str | None = None
    """Value of the flag --container-image, on clusters that have it."""
    max_jobs: int = 1000
    """Largest number of jobs in the queue, waiting or running."""
    max_running: int = 0
    """Largest number of running jobs; 0 for the cluster's limit alone."""
    poll_min_s: float = 30.0
    """Seconds between two queries of the scheduler while states change."""
    poll_max_s: float = 300.0
    """Largest number of seconds between two queries, reached while nothing changes."""
    lost_after_s: float = 600.0
    """Seconds after which a job that is missing from accounting and the queue counts as lost."""
    grace_s: float = 2.0
    """Seconds within which a job must end after the outcome of its last trial."""
    fast_failure_s: float = 60.0
    """A job that fails within this many seconds counts against its node."""
    exclude_after: int = 3
    """Number of consecutive fast failures for which a node is excluded, if jobs succeed on other nodes."""
    max_excluded: int = 4
    """Largest number of excluded nodes; 0 to exclude none."""
    driver_time: int = 1440
    """Under driver=slurm: time limit of the driver's own job in minutes; it is requeued at the limit."""
    driver_partition: str | None = None
    """Under driver=slurm: partition of the driver's job; null for `partition`."""
    driver_memory: float = 4.0
    """Under driver=slurm: memory of the driver's job in GiB."""
    driver_sbatch: dict[str, Any] = field(default_factory=dict)
    """Under driver=slurm: further flags of sbatch for the driver's job; null to remove a flag."""

    def check(self, place: str) -> None:
        for key in (*POSITIVE, *NOT_NEGATIVE):
            value, bound = getattr(self, key), "above 0" if key in POSITIVE else "at least 0"
            if not (value > 0 if key in POSITIVE else value >= 0) or value == math.inf:
                raise ConfigError(f"{place}.{key} must be {bound} and finite, got {value}")
        if not self.poll_min_s <= self.poll_max_s < math.inf:
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
        check_stack_limit(self.stack, place)
        _check_flags(self.sbatch, f"{place}.sbatch")
        _check_flags(self.driver_sbatch, f"{place}.driver_sbatch")

    def num_slots(self, gpus: int) -> int:
        return min(self.max_jobs, self.max_running or self.max_jobs)

    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        resources = self.resources(job, tokens)
        return resources.nodes * max(1, resources.gpus)

    def num_threads(self) -> int:
        return self.cpus if isinstance(self.cpus, int) else 1

    def has_gpu(self, gpus: int) -> bool:
        """Test if any setting, rule or flag requests GPUs, at any scale."""
        requests = [self.gpus, *(row.get("gpus") for row in self.by_scale)]
        return any(requests) or any(name == "gres" or name.startswith("gpus") for name in self.flags)

    @property
    def flags(self) -> Mapping[str, Any]:
        """All further flags, by the names of sbatch."""
        image = {} if self.container_image is None else {"container-image": self.container_image}
        return image | {name.replace("_", "-"): value for name, value in self.sbatch.items()}

    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        for job, tokens in jobs:
            self.resources(job, tokens)

    def resources(self, job: Job, tokens: Number | None) -> Resources:
        """Return the resources that a job requests.

        Raises:
            ConfigError: a rule has no value for this job.
        """
        settings = asdict(self)
        rows = [dict(row) for row in self.by_scale]
        resources = resolve_resources(settings, rows, job_names(job, tokens), "launcher")
        if "time" in self.flags:  # the check accepts only null
            return replace(resources, minutes=None)
        if resources.minutes is None and job.seconds is not None:
            limit = limit_minutes(job.seconds, margin=self.time_margin, least=self.min_time)
            return replace(resources, minutes=limit)
        return resources

    def text_values(self, key: str) -> set[str]:
        """Return all values of a text resource, such as the accounts."""
        values = [asdict(self)[key], *(row.get(key) for row in self.by_scale)]
        return {str(value) for value in values if value is not None}


def _check_flags(flags: Mapping[str, Any], place: str) -> None:
    for name, value in flags.items():
        if not FLAG.fullmatch(str(name)):
            raise ConfigError(f"{place}: {name!r} is not a flag of sbatch; write it as mail-type: END")
        flag = str(name).replace("_", "-")
        if len(flag) == 1:
            raise ConfigError(f"{place}: {name!r} is a short flag; write its long name, such as partition for p")
        if flag in RESERVED_FLAGS and not (flag == "time" and value is None):
            raise ConfigError(f"{place}.{name} cannot be set: {RESERVED_FLAGS[flag]}")
        check_line(value, f"{place}.{name}")
        if flag == "signal" and FATAL_SIGNAL.match(str(value)):
            raise ConfigError(
                f"{place}.{name} must leave USR2 to the worker, which other signals end, got {value!r}; "
                f"launcher.signal_s sets the warning time, and without B: a signal goes to the tasks of srun"
            )
