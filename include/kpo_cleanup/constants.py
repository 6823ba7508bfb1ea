"""The words of this project, defined once. README, UI, logs and tests use these and no others."""

from __future__ import annotations

from enum import Enum

ALL_NAMESPACES = "*"


class Reason(str, Enum):
    """The reason why a pod is kept or deleted, in the order of the rules."""

    BAD_LABELS = "bad_labels"  # an identifying label is missing or malformed
    PROTECTED = "protected"  # somebody asked to keep it
    OWNED = "owned"  # a controller (a Job, a SparkApplication) looks after it
    TERMINATING = "terminating"  # it is already being deleted, and not late
    UNRESOLVED = "unresolved"  # the source cannot tell whether there is a task instance
    UNMATCHED = "unmatched"  # this Airflow has no such task instance
    SUPERSEDED = "superseded"  # its task instance is active, but uses another pod now
    STALLED = "stalled"  # its task waits for a container that does not end
    ACTIVE = "active"  # its task instance is not over
    SETTLING = "settling"  # its task instance ended a moment ago, and the operator may still tidy up
    COMPLETED = "completed"  # its task instance is over, and its containers too
    ORPHANED = "orphaned"  # its task instance is over, its containers are not


class Outcome(str, Enum):
    """The fate of a zombie in ``reap``."""

    DELETED = "deleted"
    AWAITING_FINALIZER = "awaiting_finalizer"  # accepted, but a finalizer keeps the pod
    ALREADY_GONE = "already_gone"  # somebody else deleted it first
    SPARED = "spared"  # the second look or the precondition showed that it is in use
    FAILED = "failed"
    LEFT_FOR_NEXT_RUN = "left_for_next_run"  # max_deletes was reached, or the API server did not answer
    WOULD_DELETE = "would_delete"


# Airflow's terminal task instance states (airflow.utils.state.TerminalTIState). They are written out here. So a new
# state of a later Airflow counts as active, for an unknown word must not delete a pod.
FINISHED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
