"""The kit that every runner passes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.registry import Registry
from hptransfer.planning.plan import make_plan
from hptransfer.testing import runners
from hptransfer.worker.runners import RUNNERS
from tests.support.helpers import tiny
from tests.support.scripts import plan_of

# A registry of its own: benchmarks that other tests import add runners to the shared one.
BUILT_IN = Registry("runner", "hptransfer.worker.runners").names()


@pytest.fixture(params=BUILT_IN)
def given(request: pytest.FixtureRequest, here: Path) -> tuple[str, Mapping[str, Any]]:
    """A runner's name and a run of it, as in a trial's file."""
    plan = plan_of(here) if request.param == "script" else make_plan(tiny(here / "runs"))
    return request.param, plan.trial(plan.scales[0], {"lr": 2.0**-6}, 0).run


def test_size_and_identity_are_stable(given: tuple[str, Mapping[str, Any]]) -> None:
    name, run = given
    runners.check_identity(RUNNERS.get(name), run)


def test_a_trial_ends_once(given: tuple[str, Mapping[str, Any]], tmp_path: Path) -> None:
    name, run = given
    runners.check_outcomes(RUNNERS.get(name), run, tmp_path / "run")


def test_a_stopped_trial_resumes_to_the_same_outcome(tmp_path: Path) -> None:
    """A script resumes by itself, if it can; tests/worker/test_script_ends.py shows what it is given."""
    plan = make_plan(tiny(tmp_path / "runs"))
    run = plan.trial(plan.scales[0], {"lr": 2.0**-6}, 0).run
    runners.check_interruption(RUNNERS.get("builtin"), run, tmp_path)
