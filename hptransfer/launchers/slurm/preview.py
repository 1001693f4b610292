"""Preview of the scripts that a sweep would submit to SLURM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from hptransfer.core.records import Job, Number
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.commands import SlurmCommands
from hptransfer.launchers.slurm.job_resources import Resources
from hptransfer.launchers.slurm.job_script import array_script
from hptransfer.launchers.slurm.limits import chunks, read_limits, shares
from hptransfer.launchers.slurm.settings import SlurmSettings
from hptransfer.launchers.slurm.submission import script_template


def preview(config: SlurmSettings, folder: RunFolder, jobs: Iterable[tuple[Job, Number | None]]) -> Iterator[str]:
    """Return the scripts of the first submission, before trial times are known.

    Numbers replace the jobs' ids, which are created at submission.

    Args:
        jobs: jobs of every scale, with the tokens of one trial.

    Raises:
        ConfigError: a rule has no value at one of the scales.
    """
    classes: dict[Resources, list[Job]] = defaultdict(list)
    for job, tokens in jobs:
        classes[config.resources(job, tokens)].append(job)
    limits = read_limits(SlurmCommands(), config.text_values("account"), config.text_values("qos"))
    for resources, members in classes.items():
        parts = chunks(members, limits.array)
        allowed = shares(config.max_running or len(members), [len(part) for part in parts])
        for part, share in zip(parts, allowed, strict=True):
            scales = sorted({job.scale.key for job in part})
            condition = "" if share else ", once fewer of the others run"
            yield f"# {len(part)} jobs of {'; '.join(scales)}{condition}"
            yield array_script(script_template(config, folder), folder, part, resources, share=share or 1)
