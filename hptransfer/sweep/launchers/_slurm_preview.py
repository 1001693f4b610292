"""What a sweep would submit to SLURM, without submitting it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from hptransfer.core.records import Job, Number, Scale
from hptransfer.sweep.launchers._slurm_calls import Calls
from hptransfer.sweep.launchers._slurm_config import SlurmConfig
from hptransfer.sweep.launchers._slurm_limits import chunks, read_limits, shares
from hptransfer.sweep.launchers._slurm_resources import Resources
from hptransfer.sweep.launchers._slurm_script import array_script
from hptransfer.sweep.launchers._slurm_submission import script_form
from hptransfer.sweep.plan import Plan


def preview(plan: Plan, config: SlurmConfig) -> Iterator[str]:
    """The scripts of the first submission, before anything is known of how long trials take.

    Numbers stand in for the jobs' ids, which are made as they are submitted.

    Raises:
        ConfigError: a rule has no value at one of the scales.
    """
    classes: dict[Resources, list[Job]] = defaultdict(list)
    for scale in plan.scales:
        for job in _jobs(plan, scale):
            classes[config.resources(job, _tokens(plan, scale))].append(job)
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


def _jobs(plan: Plan, scale: Scale) -> Iterator[Job]:
    """The jobs of one scale, as large as their stacks."""
    left, stack = plan.num_trials(scale), plan.runner.stack_size(plan.run(scale))
    size = plan.sizes[scale]
    while left > 0:
        count = min(left, stack)
        left -= count
        yield Job(
            id=f"{scale.name.replace('=', '').replace(',', '-')}-{left}",
            trials=[""] * count,
            scale=scale,
            params=size.params,
            flops=count * size.flops,
        )


def _tokens(plan: Plan, scale: Scale) -> Number | None:
    tokens = plan.run(scale).get("tokens")
    return tokens if isinstance(tokens, Number) else None
