"""Submission of jobs in arrays, within the limits of the cluster.

Jobs that are refused for now are held and submitted again later.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from hptransfer.core.errors import RunFolderError, StoppedError
from hptransfer.core.io import read_json
from hptransfer.core.records import Job, Number, Scale, digest
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands
from hptransfer.launchers.slurm.job_resources import Resources
from hptransfer.launchers.slurm.job_script import ScriptTemplate, array_script, interpreter, sweep_name
from hptransfer.launchers.slurm.limits import Limits, chunks, read_limits, shares, used_share
from hptransfer.launchers.slurm.settings import SlurmSettings

STATES_FILE = "states.json"

# Messages of sbatch after which the same script may be accepted later. After the first kind, it may have been accepted.
UNCONFIRMED = re.compile(r"timed out|timeout|zero bytes|connection reset|did not answer|communication|transport", re.I)
UNREACHABLE = re.compile(r"unable to contact|connection refused|temporarily|try again|controller|max job count", re.I)
LIMIT_REASON = re.compile(r"\b(?:Assoc|QOS)\w*Limit\b")


def at_limit(message: str) -> bool:
    """Test if sbatch refused a script because of the number of jobs.

    The opposite is a refusal of the resources that one of them requests.
    """
    reasons = LIMIT_REASON.findall(message)
    policy = "accounting/qos policy" in message.lower()
    return any("Submit" in reason for reason in reasons) or (policy and not reasons)


def script_template(config: SlurmSettings, folder: RunFolder) -> ScriptTemplate:
    """Return the common part of all scripts of a run folder."""
    return ScriptTemplate(
        name=sweep_name(folder),
        flags=config.flags,
        setup=config.setup,
        python=interpreter(config.python),
        wrapper=config.wrapper,
        signal_s=config.signal_s,
        checkpoint_s=config.checkpoint_s,
        stack=config.stack,
    )


class Submitter:
    """Submission of one run folder's jobs to the queue.

    Attributes:
        held: jobs to be submitted, by id.
        hold_reason: last message with which sbatch refused a submission.
        unconfirmed: true if an answer of sbatch was lost, or orphaned jobs could not be searched for: the queue may
            contain jobs whose numbers are not recorded.
    """

    def __init__(self, folder: RunFolder, config: SlurmSettings, calls: SlurmCommands) -> None:
        self._folder, self._config, self.calls = folder, config, calls
        self.held: dict[str, Job] = {}
        self.hold_reason = ""
        self.unconfirmed = False
        self._limits: Limits | None = None
        self._array_shares: dict[str, int] = {}
        self._tokens: dict[Scale, Number | None] = {}

    @property
    def limits(self) -> Limits:
        """Limits of the cluster, read once."""
        if self._limits is None:
            accounts, qualities = self._config.text_values("account"), self._config.text_values("qos")
            self._limits = read_limits(self.calls, accounts, qualities)
        return self._limits

    def submit(self, submitted: Mapping[str, str], exclude: Collection[str]) -> dict[str, str]:
        """Submit the held jobs.

        Args:
            submitted: SLURM's ids of the jobs that are submitted and unfinished, by job id.
            exclude: nodes to avoid.

        Returns:
            SLURM's ids of the jobs that were accepted, by job id.

        Raises:
            StoppedError: the scheduler refuses a job permanently, for example for a partition that does not exist.
            ConfigError: a rule has no value for one of the jobs.
        """
        classes: dict[Resources, list[Job]] = defaultdict(list)
        for job in self.held.values():
            classes[self._config.resources(job, self._tokens_of(job))].append(job)
        numbers: dict[str, str] = {}
        for resources, jobs in classes.items():
            parts = chunks(jobs, self.limits.array)
            free = self._free_slots([*submitted.values(), *numbers.values()])
            for part, share in zip(parts, shares(free, [len(part) for part in parts]), strict=True):
                if share:
                    known = {*submitted.values(), *numbers.values()}
                    numbers |= self._submit_array(part, resources, share, known, exclude)
        return numbers

    def _free_slots(self, numbers: Collection[str]) -> int:
        """Return the jobs that may run in addition to those submitted."""
        if not self._config.max_running:
            return len(self.held)
        open_jobs: dict[str, int] = defaultdict(int)
        for number in numbers:
            open_jobs[number.partition("_")[0]] += 1
        running = used_share((self._array_shares.get(array, count), count) for array, count in open_jobs.items())
        return max(0, self._config.max_running - running)

    def _submit_array(
        self, jobs: Sequence[Job], resources: Resources, share: int, known: Collection[str], exclude: Collection[str]
    ) -> dict[str, str]:
        """Submit an array; halve it while it exceeds a limit."""
        from hptransfer.launchers.slurm.submitit_adapter import submit

        if self.unconfirmed and not self.cancel_orphaned_jobs(known):
            return {}
        template = script_template(self._config, self._folder)
        script_path = self._folder.jobs / f"last-{digest(str(resources))[:6]}.sh"
        while jobs:
            text = array_script(template, self._folder, jobs, resources, share=share, exclude=sorted(exclude))
            try:
                array = submit(self.calls, text, script_path)
            except CallError as error:
                self._handle_refusal(str(error))
                if not at_limit(self.hold_reason):
                    return {}
                jobs = jobs[: len(jobs) // 2]
                continue
            self._array_shares[array] = min(share, len(jobs))
            for job in jobs:
                del self.held[job.id]
            return {job.id: f"{array}_{index}" for index, job in enumerate(jobs)}
        return {}

    def _handle_refusal(self, message: str) -> None:
        """Raise StoppedError unless the same script may be accepted later."""
        self.hold_reason = message
        self.unconfirmed = bool(UNCONFIRMED.search(message))
        if not (self.unconfirmed or at_limit(message) or UNREACHABLE.search(message)):
            raise StoppedError(
                f"stopped: sbatch refused a job ({message}); correct the settings under launcher, then run the same "
                "command again (--dry-run prints the script)"
            )

    def _tokens_of(self, job: Job) -> Number | None:
        """Return the training tokens of a trial.

        They are a scale axis or a run setting.
        """
        if job.scale not in self._tokens:
            run = {} if "tokens" in job.scale.axes else self._folder.read_trial(job.trials[0]).run
            tokens = run.get("tokens")
            self._tokens[job.scale] = tokens if isinstance(tokens, Number) else None
        return self._tokens[job.scale]

    def find_orphaned_jobs(self, known: Collection[str]) -> set[str]:
        """Return the sweep's jobs in the queue whose numbers are not recorded.

        Between submission and record their driver ended, or the answer of sbatch was lost.

        Args:
            known: SLURM's ids of the driver's jobs.

        Raises:
            CallError: the queue cannot be read now.
        """
        name = sweep_name(self._folder)
        text = self.calls.run("squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%i")
        orphaned = set(text.split()) - set(known)
        return orphaned - self._recorded_numbers() if orphaned else orphaned

    def cancel_orphaned_jobs(self, known: Collection[str]) -> bool:
        """Cancel the sweep's jobs whose numbers are not recorded.

        The same jobs are then submitted again under recorded numbers.

        Args:
            known: SLURM's ids of the driver's jobs.

        Returns:
            False if that is not possible now.
        """
        try:
            if orphaned := self.find_orphaned_jobs(known):
                self.calls.run("scancel", *sorted(orphaned))
        except CallError:
            return False
        self.unconfirmed = False
        return True

    def _recorded_numbers(self) -> set[str]:
        """Return SLURM's ids in all job files."""
        numbers = set()
        for path in self._folder.jobs.glob("*.json"):
            if path.suffixes == [".json"] and path.name != STATES_FILE:
                with contextlib.suppress(RunFolderError):
                    numbers.add(str(read_json(path).get("scheduler")))
        return numbers
