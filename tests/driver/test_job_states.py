"""The transition function of jobs as a table: every state with every event."""

import itertools

import pytest

from hptransfer.driver.job_states import WITH_LAUNCHER, WITH_WORKER, JobEvent, JobState, next_state

# One row a state; None where the event is impossible.
EVENTS = (JobEvent.SUBMIT, JobEvent.ADOPT, JobEvent.STOP, JobEvent.DELAY, JobEvent.FINISH)
TABLE: dict[JobState, tuple[str | None, ...]] = {
    JobState.ENDED: ("SUBMITTED", "ADOPTED", None, "DELAYED", None),
    JobState.SUBMITTED: (None, "ADOPTED", "STOPPING", "DELAYED", "ENDED"),
    JobState.STOPPING: (None, "ADOPTED", None, "DELAYED", "ENDED"),
    JobState.ADOPTED: (None, None, "STOPPING_ADOPTED", "DELAYED", "ENDED"),
    JobState.STOPPING_ADOPTED: (None, None, None, "DELAYED", "ENDED"),
    JobState.DELAYED: ("SUBMITTED", None, None, "DELAYED", "ENDED"),
}


def test_the_table_has_every_state_and_every_event() -> None:
    assert set(TABLE) == set(JobState)
    assert set(EVENTS) == set(JobEvent)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_every_event_in_every_state(state: JobState, event: JobEvent) -> None:
    expected = TABLE[state][EVENTS.index(event)]
    if expected is None:
        with pytest.raises(ValueError, match=f"a job that is {state.value} cannot {event.value}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is JobState[expected]


def test_every_state_is_reached_from_ended_and_can_end() -> None:
    def reachable(state: JobState) -> set[JobState]:
        found = {state}
        while new := {JobState[name] for known in found for name in TABLE[known] if name} - found:
            found |= new
        return found

    assert reachable(JobState.ENDED) == set(JobState)
    assert all(JobState.ENDED in reachable(state) for state in JobState)


def test_a_job_is_with_the_launcher_or_a_worker_or_neither() -> None:
    assert set(WITH_LAUNCHER) | set(WITH_WORKER) == set(JobState) - {JobState.DELAYED, JobState.ENDED}
    assert not set(WITH_LAUNCHER) & set(WITH_WORKER)
