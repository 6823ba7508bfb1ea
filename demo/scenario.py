"""The task instances of the DAG `kpo_zombies`: whose pods have to go, and whose have to stay."""

from __future__ import annotations

from dataclasses import dataclass

from demo.pods import PodView
from demo.rest import TaskInstance

DAG_ID = "kpo_zombies"


@dataclass(frozen=True)
class Role:
    """One task instance of the DAG, and its state when the cleanup runs."""

    task_id: str
    map_index: int
    story: str
    state: str  # of the task instance
    try_number: int = 1
    is_zombie: bool = False
    loses_worker: bool = False

    def plays(self, other: TaskInstance | PodView) -> bool:
        return (self.task_id, self.map_index) == (other.task_id, other.map_index)

    def has_come_to(self, task_instances: list[TaskInstance]) -> bool:
        """Tell whether its task instance is as the cleanup should find it."""
        ours = [ti for ti in task_instances if self.plays(ti)]
        return [(ti.state, ti.try_number) for ti in ours] == [(self.state, self.try_number)]


_HANGING = "base ends after 5 s, its sidecar never does"
_WORKING = "works on, with a grace period of a day"

ROLES = (
    Role("zombie_kpo_task", -1, _HANGING, "failed", is_zombie=True, loses_worker=True),
    Role("healthy_kpo_task", -1, _WORKING, "running"),
    Role("mapped_kpo_task", 0, _HANGING, "failed", is_zombie=True, loses_worker=True),
    Role("mapped_kpo_task", 1, _WORKING, "running"),
    Role("retried_kpo_task", -1, "works on; a retry will take over this pod", "running", 2, loses_worker=True),
    Role("deferred_kpo_task", -1, "works on; only the triggerer watches it", "deferred"),
)


def title(one: Role | TaskInstance | PodView) -> str:
    """Name the task as people do."""
    return one.task_id if one.map_index < 0 else f"{one.task_id} [{one.map_index}]"


def role_of(other: TaskInstance | PodView) -> Role:
    return next(role for role in ROLES if role.plays(other))
