"""Twenty trials under every kind of fault: none is lost, trained twice, or shown wrongly."""

from pathlib import Path

import pytest

from tests.slurm.chaos import (
    ACCOUNTING,
    CANCEL,
    CONTROLLER,
    DRIVER,
    MLFLOW,
    PREEMPT,
    REQUEUE,
    Chaos,
    Setting,
    compare,
    tally,
)
from tests.slurm.cluster import Cluster
from tests.support.servers import mlflow_server

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

SMALL = Setting(
    trials=20,
    tokens=98304,
    in_flight=6,
    deck={CANCEL: 2, REQUEUE: 2, PREEMPT: 2, DRIVER: 2, CONTROLLER: 1, ACCOUNTING: 1, MLFLOW: 1},
    rounds=1,
    pause_s=(1.0, 3.0),
    away_s=(2.0, 5.0),
    limit_s=None,
)


@pytest.mark.slow
def test_a_sweep_loses_nothing_whatever_strikes(here: Cluster, tmp_path: Path) -> None:
    with mlflow_server(tmp_path / "server") as server:
        chaos = Chaos(SMALL, here, server, tmp_path)
        chaos.run()
        found = tally(chaos, SMALL, server.uri)
    compare(found, chaos, SMALL, tmp_path)
    print(found.markdown())
    assert found.problems == [], chaos.log.read_text()[-3000:]
    assert {fault.kind for fault in found.faults if fault.hit} == set(SMALL.deck)
    assert found.resumed >= 5
