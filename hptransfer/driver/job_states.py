"""The state machine of a job: states, events and transitions."""

from __future__ import annotations

from enum import Enum


class JobState(Enum):
    """The state of one job; a job is in exactly one.

    Attributes:
        SUBMITTED: the launcher has it.
        ADOPTED: a worker that an earlier driver started on this machine holds its trials.
        DELAYED: its next attempt is to be submitted at a known time.
        STOPPING: it was cancelled at the launcher and has not ended yet.
        STOPPING_ADOPTED: the worker of an earlier driver was told to stop and still holds its trials.
        ENDED: no attempt runs and none is planned; a job that was read from disk or just made starts here.
    """

    SUBMITTED = "submitted"
    ADOPTED = "adopted"
    DELAYED = "delayed"
    STOPPING = "stopping"
    STOPPING_ADOPTED = "stopping adopted"
    ENDED = "ended"


class JobEvent(Enum):
    """An event that moves a job to another state.

    Attributes:
        SUBMIT: an attempt goes to the launcher, or the launcher knows the job from an earlier driver.
        ADOPT: the launcher does not run it, but a worker of an earlier driver holds its trials.
        STOP: it is cancelled at the launcher, or its worker is told to stop.
        DELAY: trials of it are to be trained by another attempt at a known time.
        FINISH: no attempt runs any more, and no trial of it is left to train.
    """

    SUBMIT = "submit"
    ADOPT = "adopt"
    STOP = "stop"
    DELAY = "delay"
    FINISH = "finish"


WITH_LAUNCHER = (JobState.SUBMITTED, JobState.STOPPING)
"""States in which a job fills a slot of the launcher."""
WITH_WORKER = (JobState.ADOPTED, JobState.STOPPING_ADOPTED)
"""States in which a worker of an earlier driver holds a job's trials."""

TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.ENDED, JobEvent.SUBMIT): JobState.SUBMITTED,
    (JobState.DELAYED, JobEvent.SUBMIT): JobState.SUBMITTED,
    (JobState.ENDED, JobEvent.ADOPT): JobState.ADOPTED,
    (JobState.SUBMITTED, JobEvent.ADOPT): JobState.ADOPTED,
    (JobState.STOPPING, JobEvent.ADOPT): JobState.ADOPTED,  # its worker has yet to be told to stop
    (JobState.SUBMITTED, JobEvent.STOP): JobState.STOPPING,
    (JobState.ADOPTED, JobEvent.STOP): JobState.STOPPING_ADOPTED,
    **{(state, JobEvent.DELAY): JobState.DELAYED for state in JobState},
    **{(state, JobEvent.FINISH): JobState.ENDED for state in JobState if state is not JobState.ENDED},
}


def next_state(state: JobState, event: JobEvent) -> JobState:
    """Return the state that follows an event.

    Raises:
        ValueError: the event is impossible in this state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a job that is {state.value} cannot {event.value}") from None
