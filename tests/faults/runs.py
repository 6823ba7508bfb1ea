"""A whole run of the cleanup against one API server: list, fetch, classify, reap."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from include.kpo_cleanup.candidates import with_records
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from tests.faults.servers import Server
from tests.faults.world import MemorySource, Task

# The delays are short enough for a test, and the timeouts long enough for a busy machine.
QUICK = RetryPolicy(connect_timeout=2, read_timeout=1, initial_backoff=0.02, max_backoff=1)

# Its end is in the future, so that no pod is younger. No test here waits for anything to settle.
FAILED_ONCE = Task("", "orders", "over", "run_1", state="failed", ended=2**31)
IN_TRY_2 = Task("", "orders", "live", "run_1", state="running", try_number=2)


def create(server: Server, namespace: str, name: str, task: Task, try_number: int = 1) -> None:
    """Create a pod of a task."""
    server.create_pod(namespace, name, {**task.labels, "try_number": str(try_number)})


def source_of(*tasks: Task) -> MemorySource:
    """Return a source that has these tasks."""
    return MemorySource({task.key: task for task in tasks})


def clean_up(
    api: KubeClient,
    namespace: str,
    source: MemorySource,
    policy: RetryPolicy = QUICK,
    seconds: int = 1,
    **options: Any,
) -> dict[str, Result]:
    """Classify all pods and reap; return the results by pod name.

    :param seconds: how far the clock of the cleanup is ahead.
    """
    settings = Settings(namespaces=namespace, settle_seconds=0, **options)
    listed = api.list_workloads([namespace], settings.label_selector).workloads
    task_instances = source.fetch({pod.key for pod in listed})
    snapshot = Snapshot(listed, task_instances, settings, int(time.time()) + seconds)
    zombies = [verdict for verdict in classify(with_records(snapshot, source)) if verdict.is_zombie]
    results = reap(
        zombies,
        api,
        source,
        settings,
        [namespace],
        lambda: time.time() + seconds,
        retry_policy=policy,
        delete_timeout=0.1,
    )
    assert sorted(r.verdict.workload.uid for r in results) == sorted(v.workload.uid for v in zombies)
    return {result.verdict.workload.name: result for result in results}


def outcomes(results: Mapping[str, Result]) -> dict[str, Outcome]:
    """Return the outcomes by pod name."""
    return {name: result.outcome for name, result in results.items()}


def message_of(result: Result) -> str:
    """Return the error of a result, or else its detail."""
    return str(result.error) if result.error else result.detail
