"""A real SLURM of four nodes on this machine: accounting, GPUs as a resource, partitions that preempt.

    with cluster() as slurm:
        subprocess.run(["sbatch", ...], env=slurm.environment)

    python -m tests.slurm.cluster -- COMMAND...     runs a command beside such a cluster

Everything lies in one temporary folder, listens on 127.0.0.1 alone, and is known by that folder's
SLURM_CONF in its environment. A process of its own waits for the end of a pipe from the one that asked
for the cluster, so it is taken down however that process ends. Several clusters stand side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from tests.support.waiting import files, processor_time, wait_until

PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server")
INSTALL = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
PROGRAMS = (
    "munged",
    "mungekey",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacct",
)

STOP_S = 60.0
"""For a daemon that is told to stop, before it is killed."""
NO_ANSWER = re.compile(r"timed out|Unable to contact|Connection refused|Zero Bytes", re.IGNORECASE)
"""In what a command prints: a daemon is away or slow."""
RELEASE_S = 2
"""How soon a job that is released starts."""

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job is held back for as long as its old credential is valid: two minutes unless it is said here.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=limits
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostName={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs={cpus} RealMemory=5000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-0
PartitionName=grace Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=1-0
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=1-0
{settings}
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct_db
"""


class ClusterError(Exception):
    """The cluster did not come up, or one of its commands failed."""


class NoAnswerError(ClusterError):
    """No daemon answered a command in time."""


def obstacle() -> str | None:
    """Why no cluster can be brought up here, with what would change that; None if one can."""
    if os.geteuid() != 0:
        return "the SLURM tests need root (device files, several daemons); run them in a container as root"
    if not all(shutil.which(program, path=_path()) for program in PROGRAMS):
        return f"SLURM is not installed; on Debian as root: {INSTALL}"
    return None


def install() -> None:
    """Installs the packages, on Debian as root. RUNLEVEL keeps their services from being started."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["sh", "-c", INSTALL], env=environment, check=True)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@dataclass
class Cluster:
    """A cluster that runs.

    Attributes:
        folder: all its files, logs under log/.
        environment: what its clients need, on top of the environment of this process.
        nodes: names of its nodes.
    """

    folder: Path
    environment: dict[str, str]
    nodes: tuple[str, ...]
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """Return the output of a command. SLURM's own give up where no daemon answers.

        Raises:
            ClusterError: it failed.
        """
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            kind = NoAnswerError if NO_ANSWER.search(done.stderr) else ClusterError
            raise kind(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Ids of jobs in the queue, array tasks each, such as "12_3"; of these states if any are named."""
        chosen = [f"--states={','.join(states)}"] if states else []
        return self.run("squeue", "--noheader", "--array", "--format=%i", *chosen).split()

    def state(self, job: str) -> str:
        """The controller's word for a job's state, such as RUNNING."""
        return self._fields(job)["JobState"]

    def restarts(self, job: str) -> int:
        """Return the number of times that a job was requeued."""
        return int(self._fields(job)["Restarts"])

    def _fields(self, job: str) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self.run("scontrol", "show", "job", job).split())

    def accounted(self, job: str) -> str:
        """Accounting's word for a job's state; empty if it has no record."""
        lines = self.run("sacct", "-X", "-n", "--parsable2", "--format=State", f"--jobs={job}").split("\n")
        return lines[0]

    def requeue(self, job: str) -> None:
        self.run("scontrol", "requeue", job)

    def release(self, job: str) -> None:
        """Lets a requeued job start soon, not in the second of its end.

        A node tells the credentials of two starts apart by their second: one of the same second is refused as revoked,
        and the job fails. To ask again puts nothing off.
        """
        begins = self._fields(job)["EligibleTime"]  # Unknown where nothing holds it back
        if begins != "Unknown" and datetime.fromisoformat(begins) > datetime.now() + timedelta(seconds=RELEASE_S):
            self.run("scontrol", "update", f"jobid={job}", f"StartTime=now+{RELEASE_S}")

    def cancel(self, *jobs: str) -> None:
        self.run("scancel", *jobs)

    def preempt(self, *, nodes: int = 1, seconds: float = 5.0, node: str | None = None) -> str:
        """Submits a job of the upper partition that takes whole nodes, whatever runs there; returns its id."""
        script = f"#!/bin/sh\nsleep {seconds}\n"
        (self.folder / "preempt.sh").write_text(script)
        where = f"--nodelist={node}" if node else f"--nodes={nodes}"
        options = ("--partition=high", where, "--exclusive", "--time=10", "--output=/dev/null")
        return self.run("sbatch", "--parsable", *options, str(self.folder / "preempt.sh")).strip()

    def wait_for(self, question: Callable[[], object], what: str) -> None:
        """Waits until a question is answered with yes. A daemon that does not answer is asked again.

        Raises:
            ClusterError: neither daemons nor jobs get on any more.
        """

        def answer() -> object:
            with contextlib.suppress(NoAnswerError):
                return question()
            return False

        try:
            wait_until(answer, what, progress=self.progress, pause_s=0.1)
        except AssertionError as error:
            raise ClusterError(f"{error}; logs in {self.folder}/log") from error

    def progress(self) -> object:
        """A value that changes as long as daemons log or this process's own children compute."""
        return files(self.folder / "log")(), processor_time()

    def answers(self, *command: str) -> bool:
        """Whether a command succeeds and prints something."""
        try:
            return bool(self.run(*command).strip())
        except ClusterError:
            return False

    # --- daemons ---

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def start_controller(self) -> None:
        """Starts slurmctld with the state that it saved."""
        self._start("slurmctld", "slurmctld", "-D")
        self.wait_for(lambda: self.answers("sinfo", "-h"), "slurmctld")

    def stop_accounting(self) -> None:
        """Takes slurmdbd away: sacct and sacctmgr fail; the controller keeps what it has to tell it."""
        self._stop("slurmdbd")

    def start_accounting(self) -> None:
        self._start("slurmdbd", "slurmdbd", "-D")
        self.wait_for(lambda: self.answers("sacctmgr", "-n", "show", "stats"), "slurmdbd")

    def fail_node(self, node: str) -> None:
        """A node dies: its daemon and its jobs' processes are killed, and the controller calls it down."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        # First what watches over the jobs, or it would still tell the controller how they ended.
        _kill(lambda environment: f"HPTRANSFER_TEST_NODE={node}" in environment and self._conf in environment)
        _kill(lambda environment: f"SLURMD_NODENAME={node}" in environment and self._conf in environment)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def start_node(self, node: str) -> None:
        """Starts a node's daemon, which puts the node into service."""
        self._start(node, "slurmd", "-D", "-N", node)
        self.wait_for(lambda: not self._node_state(node).startswith(("unk", "down")), f"slurmd {node}")

    def _node_state(self, node: str) -> str:
        return self.run("sinfo", "-h", "-N", f"--nodes={node}", "--partition=low", "--format=%T").strip()

    @property
    def _conf(self) -> str:
        return f"SLURM_CONF={self.environment['SLURM_CONF']}"

    def _start(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / "log" / name).open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env={**self.environment, "HPTRANSFER_TEST_NODE": name, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def reap(self) -> None:
        """Takes note of the ends of the daemons, which the guard killed."""
        for daemon in self._daemons.values():
            daemon.wait()

    def clean_up(self) -> None:
        """Ends all jobs, and starts what a test that failed has stopped."""
        if "slurmdbd" not in self._daemons:
            self.start_accounting()
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in self.nodes:
            if node not in self._daemons:
                self.start_node(node)
        if left := self.jobs():
            self.cancel(*left)
            self.wait_for(lambda: not self.jobs(), "an empty queue")

    # --- coming up ---

    def start(self) -> None:
        """Starts everything, in the order in which one needs the other."""
        munge, data, mysql = self.folder / "munge.socket", self.folder / "mysql", self.folder / "mysql.socket"
        self.run("mungekey", "--create", f"--keyfile={self.folder}/munge.key")
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        self._start("munged", "munged", "--foreground", "--force", "--num-threads=10", f"--socket={munge}", *files)
        own = ("--no-defaults", "--user=root", f"--datadir={data}")
        self.run("mariadb-install-db", *own, "--skip-test-db", "--auth-root-authentication-method=socket")
        small = ("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin")
        self._start("mariadbd", "mariadbd", *own, f"--socket={mysql}", "--skip-networking", *small)
        client = ("mariadb", "--no-defaults", f"--socket={mysql}")
        self.wait_for(lambda: self.answers(*client, "-e", "select 1"), "mariadbd")
        self.run(*client, "-e", "create database slurm_acct_db")
        self.wait_for(munge.exists, "munged")
        self._start("slurmdbd", "slurmdbd", "-D")
        self.wait_for(lambda: self.answers("sacctmgr", "-n", "show", "stats"), "slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", f"name={self.folder.name}")
        self.run("sacctmgr", "-i", "add", "account", "name=test")  # root's own is "root"; limits are tried on this one
        self.run("sacctmgr", "-i", "add", "user", "name=root", "account=test")
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in self.nodes:
            self._start(node, "slurmd", "-D", "-N", node)
        self.wait_for(self._all_idle, "all nodes idle")

    def _all_idle(self) -> bool:
        try:
            states = self.run("sinfo", "-h", "-N", "--partition=low", "--format=%T").split()
        except ClusterError:
            return False
        return states == ["idle"] * len(self.nodes)


@contextmanager
def cluster(*, nodes: int = 4, cpus: int = 2, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster for as long as the block runs.

    Args:
        settings: further lines of slurm.conf.

    Raises:
        ClusterError: it did not come up.
    """
    # SLURM calls a cluster by its name in small letters: the folder is given one that is, and is as unique.
    folder = Path(tempfile.gettempdir()) / f"hptransfer-slurm-{os.getpid()}-{random.SystemRandom().randrange(10**8)}"
    folder.mkdir()
    # Nothing else is done with the pipe: that it closes is what says that we are gone.
    guard = subprocess.Popen(
        [sys.executable, __file__, "--guard", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    with guard:  # the end closes the pipe, and waits
        running = _prepare(folder, nodes, cpus, settings or {})
        try:
            running.start()
            yield running
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            running.reap()


def _prepare(folder: Path, nodes: int, cpus: int, settings: Mapping[str, str]) -> Cluster:
    """Writes the configuration."""
    folder.chmod(0o755)  # munge's socket must be within reach of all
    for name in ("log", "state", "mysql"):
        (folder / name).mkdir()
    controller, accounting, *node_ports = _free_ports(2 + nodes)
    values = {
        "folder": folder,
        "name": folder.name,
        "host": socket.gethostname().partition(".")[0],
        "controller_port": controller,
        "accounting_port": accounting,
        "node_ports": f"[{','.join(map(str, node_ports))}]",
        "nodes": nodes,
        "cpus": cpus,
        "settings": "\n".join(f"{key}={value}" for key, value in settings.items()),
    }
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
    (folder / "slurmdbd.conf").chmod(0o600)
    for number in range(2):
        os.mknod(folder / f"fakegpu{number}", 0o600 | 0o020000, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"NodeName=n[1-{nodes}] Name=gpu File={folder}/fakegpu[0-1]\n")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    ours = {"PATH": _path(), "SLURM_CONF": f"{folder}/slurm.conf", "MYSQL_UNIX_PORT": f"{folder}/mysql.socket"}
    return Cluster(folder, {**inherited, **ours}, tuple(f"n{number}" for number in range(1, nodes + 1)))


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 below those that outgoing connections take, so that a daemon finds its own again."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return sorted(set(found)) if len(set(found)) == count else _free_ports(count)


# --- going down -----------------------------------------------------------------------------------


def _guard(folder: Path) -> None:
    """Waits until the process that asked for the cluster is gone or done, then takes the cluster down."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    mark = f"SLURM_CONF={folder}/slurm.conf"
    while _kill(lambda environment: mark in environment):
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _kill(condition: Callable[[Sequence[str]], bool]) -> int:
    """Kills all processes whose first environment fulfils the condition, but this one; says how many there were."""
    killed = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            environment = path.read_bytes().decode(errors="replace").split("\0")
            pid = int(path.parent.name)
            if pid != os.getpid() and condition(environment):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="bound on the command")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=2, help="of each node")
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    if args.guard:
        _guard(args.guard)
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 1
    with cluster(nodes=args.nodes, cpus=args.cpus) as running:
        return subprocess.run(args.command, env=running.environment, timeout=args.timeout, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
