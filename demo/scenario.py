"""The task instances of the DAG `kpo_zombies`, and what must become of their pods."""

from __future__ import annotations

from dataclasses import dataclass

from demo.pods import PodView
from demo.rest import TaskInstance

DAG_ID = "kpo_zombies"


@dataclass(frozen=True)
class DemoTask:
    """One task instance of the DAG, and the state it must have when the cleanup runs."""

    task_id: str
    map_index: int
    pod_description: str
    expected_state: str
    expected_try: int = 1
    leaves_zombie: bool = False
    loses_worker: bool = False
    hangs: bool = False  # waits for a sidecar, while its main container has ended
    pods: int = 1
    needs_spark_operator: bool = False

    def matches(self, other: TaskInstance | PodView) -> bool:
        return (self.task_id, self.map_index) == (other.task_id, other.map_index)

    def is_as_expected(self, task_instances: list[TaskInstance]) -> bool:
        """Return whether the task instance has the state and try number that the cleanup should find."""
        matching = [ti for ti in task_instances if self.matches(ti)]
        return [(ti.state, ti.try_number) for ti in matching] == [(self.expected_state, self.expected_try)]


_HANGS = "base exits after 5 s, its sidecar never does"
_WORKS = "keeps working, with a grace period of one day"
_ZOMBIE = {"leaves_zombie": True, "loses_worker": True}

TASKS = (
    DemoTask("zombie_kpo_task", -1, _HANGS, "failed", hangs=True, **_ZOMBIE),
    DemoTask("healthy_kpo_task", -1, _WORKS, "running"),
    DemoTask("mapped_kpo_task", 0, _HANGS, "failed", hangs=True, **_ZOMBIE),
    DemoTask("mapped_kpo_task", 1, _WORKS, "running"),
    DemoTask("retried_kpo_task", -1, "keeps working; a retry will adopt it", "running", 2, loses_worker=True),
    DemoTask("deferred_kpo_task", -1, "keeps working, watched only by the triggerer", "deferred"),
    DemoTask("zombie_job_task", -1, "a Job with two pods that keep working", "failed", pods=2, **_ZOMBIE),
    DemoTask("detached_job_task", -1, "a Job that keeps working, for which the task does not wait", "success"),
    DemoTask(
        "zombie_spark_task",
        -1,
        "a SparkApplication: driver and executor keep working",
        "failed",
        pods=2,
        needs_spark_operator=True,
        **_ZOMBIE,
    ),
)


def title(item: DemoTask | TaskInstance | PodView) -> str:
    """Return the task id, with the map index of a mapped task in brackets."""
    return item.task_id if item.map_index < 0 else f"{item.task_id} [{item.map_index}]"
