"""What a sweep would submit to SLURM, without submitting it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from hptransfer.core.records import Job
from hptransfer.sweep.launchers._slurm_calls import Calls
from hptransfer.sweep.launchers._slurm_config import SlurmConfig
from hptransfer.sweep.launchers._slurm_limits import chunks, read_limits, shares
from hptransfer.sweep.launchers._slurm_resources import Resources
from hptransfer.sweep.launchers._slurm_script import array_script
from hptransfer.sweep.launchers._slurm_submission import script_form
from hptransfer.sweep.plan import Plan, jobs_of


def preview(plan: Plan, config: SlurmConfig) -> Iterator[str]:
    """The scripts of the first submission, before anything is known of how long trials take.

    Numbers stand in for the jobs' ids, which are made as they are submitted.

    Raises:
        ConfigError: a rule has no value at one of the scales.
    """
    classes: dict[Resources, list[Job]] = defaultdict(list)
    for scale in plan.scales:
        for job, tokens in jobs_of(plan, scale):
            classes[config.resources(job, tokens)].append(job)
    limits = read_limits(Calls(), config.named("account"), config.named("qos"))
    for resources, jobs in classes.items():
        parts = chunks(jobs, limits.array)
        allowed = shares(config.max_running or len(jobs), [len(part) for part in parts])
        for part, share in zip(parts, allowed, strict=True):
            scales = sorted({job.scale.name for job in part})
            when = "" if share else ", once fewer of the others run"
            yield f"# {len(part)} jobs of {'; '.join(scales)}{when}"
            yield array_script(
                script_form(config, plan.config.folder), plan.config.folder, part, resources, share=share or 1
            )
