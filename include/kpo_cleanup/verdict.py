"""The verdict on a pod, with its evidence as data. ``evidence`` renders it for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from .constants import Reason
from .task_instance import RawIds, Record, TaskInstance
from .text import printable
from .workloads.workload import Workload


class Rule(Enum):
    """The rules of classification: the reason that each one gives, and when it applies."""

    BAD_LABELS = Reason.BAD_LABELS, "an identifying label is missing or malformed"
    PROTECTED = Reason.PROTECTED, "it has the annotation or label `kpo-cleanup/protect` with any value but `false`"
    OWNED = (
        Reason.OWNED,
        "a controller that is not cleaned up owns it, or it has the labels of a Job that may exist",
    )
    TERMINATING = Reason.TERMINATING, "it is being deleted, and its deadline plus `settle_seconds` has not passed"
    HELD_BY_FINALIZERS = Reason.TERMINATING, "its deadline has passed, but finalizers hold it"
    NOT_RESOLVED = Reason.UNRESOLVED, "the source cannot determine whether there is a task instance"
    RECORD_UNREADABLE = Reason.UNRESOLVED, "the operator's record of its pod cannot be read"
    NO_TASK_INSTANCE = Reason.UNMATCHED, "there is no task instance on record"
    CREATED_AFTER_END = Reason.UNMATCHED, "it was created after its task instance ended"
    LATER_TRY = Reason.UNMATCHED, "it is of a later try than its task instance had"
    RECORD_NAMES_ANOTHER = Reason.UNMATCHED, "the operator's record names another pod"
    REPLACED = Reason.SUPERSEDED, "its active task instance has recorded a newer pod, which the operator would adopt"
    CHECKED = Reason.SUPERSEDED, "it is marked `already_checked`, and its active task instance is at a later try"
    STALLED = Reason.STALLED, "its task is waiting for a sidecar, although the main container has ended"
    NOT_RECORDED = Reason.ACTIVE, "there is a newer pod, but the operator's record does not name it"
    USED_BY_ANOTHER = Reason.ACTIVE, "the record of another active task instance of its task names it"
    ADOPTABLE = Reason.ACTIVE, "its task is no longer mapped; it is active, and may use a pod of a map index"
    LEFT_OVER = Reason.ACTIVE, "only sidecars are running, but a retry may adopt it"
    ENDED_LONG_AGO = Reason.ACTIVE, "its task is waiting for it, although it ended more than a day ago"
    OVERDUE = Reason.ACTIVE, "its task is waiting for it, although its deletion deadline has passed"
    EARLIER_TRY = Reason.ACTIVE, "its task is at a later try, which may be waiting for the pods of this one"
    NOT_STARTED = Reason.ACTIVE, "its task is waiting for it, although it has not started for more than a day"
    ACTIVE = Reason.ACTIVE, "its task instance has not finished"
    SETTLING = Reason.SETTLING, "its task instance finished less than `settle_seconds` ago"
    DETACHED = Reason.DETACHED, "it has not finished, but its task succeeded, or its operator did not wait for it"
    MAY_BE_DETACHED = Reason.DETACHED, "no record shows whether its operator waited for it"
    OUTLIVES_SUCCESS = Reason.DETACHED, "it has not finished, although its task waited for it and succeeded"
    UNDATED = Reason.COMPLETED, "its task instance has finished and so has it, but nothing shows when"
    COMPLETED = Reason.COMPLETED, "its task instance has finished, and all of its containers have ended"
    ORPHANED = Reason.ORPHANED, "its task instance has finished, but it is still Pending, Running or Unknown"

    def __init__(self, reason: Reason, applies_when: str) -> None:
        self.reason, self.applies_when = reason, applies_when


class Policy(NamedTuple):
    """The setting that decides about a completed or an unmatched pod."""

    deletes: bool
    option: str = ""  # empty for a pod that its operator kept on purpose
    value: Any = None


class Evidence(NamedTuple):
    """The facts on which a verdict rests, besides the pod itself."""

    rule: Rule
    now: int  # epoch seconds
    task_instance: TaskInstance | None = None
    other: Workload | None = None  # the newer pod: it replaces this one, or does not because their labels differ
    policy: Policy | None = None
    record: Record | None = None  # the operator's record
    problem: str = ""  # why the task instance or its record is not known


class Verdict(NamedTuple):
    """The decision on one pod, and why."""

    workload: Workload
    is_zombie: bool
    reason: Reason
    evidence: Evidence | tuple[str, ...]  # the latter is what an earlier task has rendered
    end_time_unknown: bool = False  # whether its task's end is unknown: the grace period is at least settle_seconds
    awaits_record: bool = False  # whether a later run decides, once it has read the operator's record
    eligible_at: int | None = None  # epoch seconds when it becomes a zombie, if nothing changes until then
    raw_ids: RawIds | None = None  # raw ids of its task instance, if there is exactly one
    link: str = ""  # URL of its task instance in Airflow's UI

    @property
    def rule(self) -> Rule | None:
        """Return the rule that decided, or None if an earlier task did."""
        return self.evidence.rule if isinstance(self.evidence, Evidence) else None

    @property
    def ids(self) -> dict[str, Any]:
        """Return the ids of its task instance as Airflow shows them, or those of the labels if it has none."""
        raw = self.raw_ids._asdict() if self.raw_ids else {}
        is_harmless = all(raw_id == printable(raw_id) for raw_id in raw.values())
        return {**self.workload.ids, **(raw if is_harmless else {})}

    @property
    def dag_id(self) -> str:
        """Return the id of its DAG as Airflow shows it."""
        return str(self.ids["dag_id"])


def count_reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count the pods of each reason, in the order of the rules."""
    counts = Counter(verdict.reason for verdict in verdicts)
    return {reason.value: counts[reason] for reason in Reason if counts[reason]}
