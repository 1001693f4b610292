"""Trainers of examples/recipes: single attempts of a trial by hand, and their sweeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hptransfer.core.errors import EXIT_DONE, EXIT_NO_LAW
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import ROOT, environment, outcomes
from tests.support.waiting import Process, wait_until

RECIPES = ROOT / "examples" / "recipes"


class Attempts:
    """Attempts of one trial, as a worker starts them: their folder, their metrics and their output."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder, self._command = folder, command
        folder.mkdir()
        self._metrics = folder / "reported.jsonl"

    def rows(self) -> list[dict[str, float]]:
        """All reports, of every attempt."""
        return [json.loads(line) for line in self._metrics.read_text().splitlines()] if self._metrics.exists() else []

    def curve(self, key: str) -> dict[int, float]:
        """The metric by step: a later attempt replaces what an earlier one reported."""
        return {int(row["step"]): row[key] for row in self.rows() if key in row}

    def output(self) -> str:
        """Output of the last attempt."""
        return (self.folder / "output.txt").read_text()

    def run(self, until: Callable[[], object] | None = None, number: int = signal.SIGTERM, **variables: str) -> int:
        """Run an attempt and return its exit code.

        Args:
            until: condition at which it is sent the signal; without one it runs to its end.
        """
        trial = {"HPTRANSFER_TRIAL_DIR": str(self.folder), "HPTRANSFER_METRICS": str(self._metrics)}
        with (self.folder / "output.txt").open("w") as output:
            script = Process(
                [sys.executable, *self._command],
                cwd=ROOT,
                env={**environment(), "PATH": path_of_python(), **trial, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with script:
                if until is not None:
                    wait_until(until, "the point to stop at", process=script)
                    os.killpg(script.pid, number)
                return script.wait()


def path_of_python() -> str:
    """Search path on which "python" is this interpreter."""
    return f"{Path(sys.executable).parent}:{environment()['PATH']}"


def sweep_recipe(name: str, runs: Path, *overrides: str, file: str = "lr.yaml") -> RunFolder:
    """Run a recipe's own sweep file from the checkout as its page shows, with all trials done."""
    words = ["sweep", f"examples/recipes/{name}/{file}", f"runs={runs}", "tracker=none", *overrides]
    done = subprocess.run(
        [sys.executable, "-m", "hptransfer", *words],
        cwd=ROOT,
        env={**environment(), "PATH": path_of_python()},
        capture_output=True,
        text=True,
        check=False,
    )
    # Few values may not bracket an optimum, and then no law is fitted.
    assert done.returncode in (EXIT_DONE, EXIT_NO_LAW), done.stdout + done.stderr
    (folder,) = (RunFolder(path) for path in runs.iterdir())
    assert set(outcomes(folder).values()) == {"done"}
    return folder
