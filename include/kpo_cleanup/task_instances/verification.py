"""Check that the answers of a source are those of this Airflow, and current."""

from __future__ import annotations

from ..constants import FINISHED_STATES
from ..errors import CallerNotRunning
from ..task_instance import CallerTaskInstance


def verify_caller(
    source: str, caller: CallerTaskInstance, found: tuple[str | None, str | None] | None, remedy: str
) -> None:
    """Check that a source shows the calling task instance as it is: running, and with the id of this try.

    :param source: the description of the source.
    :param found: its state and id in the answer, or None if the answer does not contain it.
    :param remedy: how to point the source at this Airflow's current data.
    :raises CallerNotRunning: if the answer differs.
    """
    if found is None:
        problem = "is missing there"
    # Airflow 2, where a task instance has no id, does not set the state to running under `airflow dags test`.
    elif found[0] in FINISHED_STATES if caller.id is None else found[0] != "running":
        problem = f"is {found[0]!r} there instead of 'running'"
    elif caller.id is not None and _without_dashes(found[1]) != _without_dashes(caller.id):
        problem = f"has id {found[1]} there instead of {caller.id}"
    else:
        return
    raise CallerNotRunning(
        f"the answers of {source} were rejected as another Airflow's or stale",
        cause=f"this task, {caller.dag_id}.{caller.task_id} of run {caller.run_id!r}, {problem}",
        remedy=f"{remedy}. If this task was cleared or marked as failed in the meantime, run it again",
    )


def _without_dashes(task_instance_id: str | None) -> str:
    """Return a UUID in the form in which some databases store it."""
    return str(task_instance_id).replace("-", "")
