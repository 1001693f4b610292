"""Submission of jobs in arrays, as far as the cluster takes them; what it refuses for now is held and tried again."""

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
from hptransfer.launchers.slurm.limits import Limits, chunks, read_limits, shares, used_share
from hptransfer.launchers.slurm.resources import Resources
from hptransfer.launchers.slurm.script import ScriptTemplate, array_script, interpreter, sweep_name
from hptransfer.launchers.slurm.settings import SlurmSettings

STATES_FILE = "states.json"

# What sbatch says when it would take the same script later, and of that what leaves open whether it was taken.
UNSURE = re.compile(r"timed out|timeout|zero bytes|connection reset|did not answer|communication|transport", re.I)
AWAY = re.compile(r"unable to contact|connection refused|temporarily|try again|controller|max job count", re.I)
REASON = re.compile(r"\b(?:Assoc|QOS)\w*Limit\b")


def at_limit(message: str) -> bool:
    """Whether sbatch refuses a script because there are too many jobs, not because of what one of them asks for."""
    reasons = REASON.findall(message)
    policy = "accounting/qos policy" in message.lower()
    return any("Submit" in reason for reason in reasons) or (policy and not reasons)


def script_template(config: SlurmSettings, folder: RunFolder) -> ScriptTemplate:
    """What all scripts of a run folder have in common."""
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
    """The way of jobs into the queue.

    Attributes:
        held: jobs that are to be submitted.
        why_held: what sbatch said last when it took less.
        unsure: an answer of sbatch was lost, or could not be looked for: there may be jobs whose numbers nobody knows.
    """

    def __init__(self, folder: RunFolder, config: SlurmSettings, calls: SlurmCommands) -> None:
        self._folder, self._config, self.calls = folder, config, calls
        self.held: dict[str, Job] = {}
        self.why_held = ""
        self.unsure = False
        self._limits: Limits | None = None
        self._share: dict[str, int] = {}
        self._tokens: dict[Scale, Number | None] = {}

    @property
    def limits(self) -> Limits:
        if self._limits is None:
            self._limits = read_limits(self.calls, self._config.named("account"), self._config.named("qos"))
        return self._limits

    def submit(self, out: Mapping[str, str], exclude: Collection[str]) -> dict[str, str]:
        """Submits what is held.

        Args:
            out: what SLURM calls the jobs that are out, by job id.
            exclude: nodes to stay away from.

        Returns:
            What SLURM calls each of those that it took.

        Raises:
            StoppedError: the scheduler refuses a job for good, such as for a partition that there is not.
            ConfigError: a rule has no value for one of them.
        """
        classes: dict[Resources, list[Job]] = defaultdict(list)
        for job in self.held.values():
            classes[self._config.resources(job, self._known_tokens(job))].append(job)
        numbers: dict[str, str] = {}
        for resources, jobs in classes.items():
            parts = chunks(jobs, self.limits.array)
            room = self._room([*out.values(), *numbers.values()])
            for part, share in zip(parts, shares(room, [len(part) for part in parts]), strict=True):
                if share:
                    numbers |= self._submit_part(part, resources, share, {*out.values(), *numbers.values()}, exclude)
        return numbers

    def _room(self, numbers: Collection[str]) -> int:
        """Jobs that may run beside what may run already."""
        if not self._config.max_running:
            return len(self.held)
        open_jobs: dict[str, int] = defaultdict(int)
        for number in numbers:
            open_jobs[number.partition("_")[0]] += 1
        running = used_share((self._share.get(array, count), count) for array, count in open_jobs.items())
        return max(0, self._config.max_running - running)

    def _submit_part(
        self, jobs: Sequence[Job], resources: Resources, share: int, known: Collection[str], exclude: Collection[str]
    ) -> dict[str, str]:
        """Submits an array; less of it while that goes against a limit."""
        from hptransfer.launchers.slurm.submitit_adapter import submit

        if self.unsure and not self.cancel_strangers(known):
            return {}
        form = script_template(self._config, self._folder)
        keep = self._folder.jobs / f"last-{digest(str(resources))[:6]}.sh"
        while jobs:
            text = array_script(form, self._folder, jobs, resources, share=share, exclude=sorted(exclude))
            try:
                array = submit(self.calls, text, keep)
            except CallError as error:
                self._refused(str(error))
                if not at_limit(self.why_held):
                    return {}
                jobs = jobs[: len(jobs) // 2]
                continue
            self._share[array] = min(share, len(jobs))
            for job in jobs:
                del self.held[job.id]
            return {job.id: f"{array}_{index}" for index, job in enumerate(jobs)}
        return {}

    def _refused(self, message: str) -> None:
        """Raises StoppedError unless the same script may be taken later."""
        self.why_held = message
        self.unsure = bool(UNSURE.search(message))
        if not (self.unsure or at_limit(message) or AWAY.search(message)):
            raise StoppedError(
                f"stopped: sbatch refused a job ({message}); correct the settings under launcher, then run the same "
                "command again (--dry-run prints the script)"
            )

    def _known_tokens(self, job: Job) -> Number | None:
        """Training tokens of a trial, for rules: an axis of the scale, or in the run itself."""
        if job.scale not in self._tokens:
            run = {} if "tokens" in job.scale.axes else self._folder.read_trial(job.trials[0]).run
            tokens = run.get("tokens")
            self._tokens[job.scale] = tokens if isinstance(tokens, Number) else None
        return self._tokens[job.scale]

    def cancel_strangers(self, known: Collection[str]) -> bool:
        """Cancels jobs of the sweep's name whose numbers nobody wrote down; False if that cannot be done now.

        Their driver ended, or sbatch's answer was lost, between submission and note. Their jobs are submitted again.
        """
        name = sweep_name(self._folder)
        try:
            text = self.calls.run("squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%i")
            strangers = set(text.split()) - set(known)
            if strangers:
                strangers -= self._written_numbers()
            if strangers:
                self.calls.run("scancel", *sorted(strangers))
        except CallError:
            return False
        self.unsure = False
        return True

    def _written_numbers(self) -> set[str]:
        numbers = set()
        for path in self._folder.jobs.glob("*.json"):
            if path.suffixes == [".json"] and path.name != STATES_FILE:
                with contextlib.suppress(RunFolderError):
                    numbers.add(str(read_json(path).get("scheduler")))
        return numbers
