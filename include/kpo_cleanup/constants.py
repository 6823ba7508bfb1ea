"""Names that the code, the README, the UI, logs and tests share."""

from __future__ import annotations

from enum import Enum

ALL_NAMESPACES = "*"


class Reason(str, Enum):
    """Why a pod is kept or deleted, in the order in which the rules apply."""

    BAD_LABELS = "bad_labels"  # an identifying label is missing or malformed
    PROTECTED = "protected"  # a user asked to keep it
    OWNED = "owned"  # a controller, such as a Job, manages it
    TERMINATING = "terminating"  # it is being deleted, and not overdue
    UNRESOLVED = "unresolved"  # the source cannot determine whether there is a task instance
    UNMATCHED = "unmatched"  # this Airflow has no such task instance
    SUPERSEDED = "superseded"  # its task instance is active but uses another pod
    STALLED = "stalled"  # its task instance waits for a sidecar that does not exit
    ACTIVE = "active"  # its task instance is active
    SETTLING = "settling"  # its task instance ended recently, and the operator may still be deleting the pod
    DETACHED = "detached"  # its task instance has finished, and may have left it running on purpose
    COMPLETED = "completed"  # its task instance has finished, and so have its containers
    ORPHANED = "orphaned"  # its task instance has finished, but its containers have not


class Outcome(str, Enum):
    """What ``reap`` did with a zombie."""

    DELETED = "deleted"
    TERMINATING = "terminating"  # the deletion was accepted, and the pod ends within its grace period
    AWAITING_FINALIZER = "awaiting_finalizer"  # the deletion was accepted, but a finalizer holds the pod
    ALREADY_GONE = "already_gone"  # it no longer existed
    SPARED = "spared"  # the second classification or a precondition showed that it is in use
    FAILED = "failed"  # it could not be deleted
    UNKNOWN = "unknown"  # the response to the deletion was lost, and the pod could not be read afterwards
    LEFT_FOR_NEXT_RUN = "left_for_next_run"  # max_deletes was reached, or a server fails or does not respond
    WOULD_DELETE = "would_delete"


# Airflow's terminal task instance states (airflow.utils.state.TerminalTIState). They are listed here so that a state
# that only a later Airflow has counts as active: an unknown state must never lead to a deletion.
FINISHED_STATES = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
