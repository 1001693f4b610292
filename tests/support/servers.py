"""An MLflow server backed by PostgreSQL, on this machine, for as long as a test takes."""

from __future__ import annotations

import contextlib
import gc
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.packages import needed, postgresql
from tests.support.waiting import PATIENCE_S, Process, wait_until

PATIENCE = f"{PATIENCE_S:.0f}"
"""For `pg_ctl`, which waits a minute by itself."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def database() -> Iterator[str]:
    """A PostgreSQL of its own, reached over 127.0.0.1 with a password; gives its URI."""
    needed(["postgresql"], lambda: None if postgresql() else "PostgreSQL is not installed")
    programs = postgresql()
    assert programs is not None
    who: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="hptransfer-postgresql-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres")
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **who,
        )

    port, password = free_port(), secrets.token_hex(8)
    secret = folder / "password"
    secret.write_text(password)
    for path in (folder, secret) if who else ():
        os.chown(path, who["user"], who["group"])
    data = folder / "data"
    try:
        call("initdb", "-D", str(data), "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "-D", str(data), "-w", "-t", PATIENCE, "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "-t", PATIENCE, "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Server:
    """`mlflow server`, which can be stopped and started while a sweep runs."""

    folder: Path
    database: str
    port: int
    process: Process | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Comes up and answers."""
        words = ["--backend-store-uri", self.database, "--serve-artifacts", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "server.log"
        with log.open("ab") as file:
            self.process = Process(
                [sys.executable, "-m", "mlflow", "server", *words],
                env=_environment(),
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, f"the MLflow server ({log})", pause_s=0.1)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=10) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def stop(self) -> None:
        """Is gone at once, as in a crash."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def close_sessions() -> None:
    """Close the connections that MLflow keeps for later requests.

    Else they are found open in whichever test runs when they are collected.
    """
    import requests
    from mlflow.utils import request_utils

    request_utils._cached_get_request_session.cache_clear()
    for session in gc.get_objects():
        if issubclass(type(session), requests.Session):  # `isinstance` would ask proxies, which import
            session.close()


def _environment() -> Mapping[str, str]:
    return {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """An MLflow server with PostgreSQL behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    with database() as uri:
        server = Server(folder, uri, free_port())
        try:
            server.start()
            yield server
        finally:
            close_sessions()
            server.stop()
