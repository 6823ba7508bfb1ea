"""`fetch_active_tis` and `reap` with more zombies than a run deletes: their queries must not grow with the backlog.

Kubernetes is replaced by a dict, so that only the source of task instances is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.history import NAMESPACE, Pod, pods_of_finished_runs
from bench.timing import stopwatch
from include.kpo_cleanup.candidates import with_records
from include.kpo_cleanup.classify import Snapshot, classify, with_plain_tasks
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.interface import DeleteResult, Listing
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.workloads.workload import Container, Workload

MAX_DELETES = 500


class InMemoryCluster:
    """The pods of a cluster that answers at once."""

    def __init__(self, pods: Sequence[Workload]) -> None:
        self._pods = {str(pod): pod for pod in pods}

    def list_workloads(self, *_: Any, keep: Callable[[Workload], bool] | None = None, **__: Any) -> Listing:
        return Listing([pod for pod in self._pods.values() if keep is None or keep(pod)])

    def get(self, pod: Workload, _: str) -> Workload | None:
        return self._pods.get(str(pod))

    def delete(self, pod: Workload, _: int) -> DeleteResult:
        del self._pods[str(pod)]
        return DeleteResult.from_accepted((), None)

    def read_log(self, *_: Any) -> list[str]:
        return []


def fetch_and_reap(source: TaskInstanceSource, zombies: int) -> Iterator[tuple[str, float]]:
    """Run the two tasks that query a source, and yield the name and the seconds of each.

    :raises RuntimeError: if the number of deleted pods is not MAX_DELETES.
    """
    pods = [_zombie(pod, number) for number, pod in enumerate(pods_of_finished_runs(zombies))]
    settings = Settings(namespaces=NAMESPACE, max_deletes=MAX_DELETES, settle_seconds=0)
    snapshots, results = list[Snapshot](), list[Any]()

    def fetch() -> None:
        found = source.fetch(with_plain_tasks(pod.key for pod in pods))
        snapshots.append(with_records(Snapshot(pods, found, settings, int(time.time())), source))

    yield "fetch_active_tis", stopwatch(fetch)
    found = [verdict for verdict in classify(snapshots[0]) if verdict.is_zombie]
    cluster = InMemoryCluster(pods)
    yield "reap", stopwatch(lambda: results.extend(reap(found, cluster, source, settings, [NAMESPACE])))
    deleted = sum(result.outcome is Outcome.DELETED for result in results)
    if deleted != MAX_DELETES:
        raise RuntimeError(f"{deleted} of {zombies:,} pods were deleted; {results[:1]}")


def _zombie(pod: Pod, number: int) -> Workload:
    """Return a pod that is still running although its task instance has ended."""
    return Workload(
        namespace=NAMESPACE,
        name=pod.name,
        uid=f"00000000-0000-4000-8000-{number:012d}",
        created=pod.created,
        phase="Running",
        containers=(Container("base", "running", pod.created),),
        try_number=1,
        key=pod.key,
    )
