"""`python bench/reap_worker.py CONN_ID`: reap on request, with the kpo_cleanup that is on PYTHONPATH.

Each input line contains a namespace and the number of zombies in it. The worker prints `took` and the seconds that
`reap` needed. The package is the current one, or that of the last commit that deleted without verification, whose
modules and classes had other names.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

PACKAGE = "include.kpo_cleanup"
VERIFIES = find_spec(f"{PACKAGE}.kube").submodule_search_locations is not None  # type: ignore[union-attr]


def load(module: str) -> Any:
    return import_module(f"{PACKAGE}.{module}")


class InMemorySource:
    """A source whose task instances have all failed, with records that name their pods."""

    description = "the benchmark"

    def __init__(self, pods: Sequence[Any]) -> None:
        values = load("task_instance" if VERIFIES else "task_instances")
        failed = values.TaskInstance("failed", 1, int(time.time()), "KubernetesPodOperator")
        self.task_instances = values.TaskInstances({pod.key: failed for pod in pods})
        if VERIFIES:
            self._records = {pod.key: values.Record(frozenset([str(pod)])) for pod in pods}

    def fetch(self, keys: Any) -> Any:
        return self.task_instances

    def complete(self, task_instances: Any, keys: Any) -> Any:
        return task_instances

    def read_records(self, task_instances: Any, keys: Any, *_: Any) -> Any:
        return {key: self._records[key] for key in keys}


def prepare(conn_id: str, namespace: str, zombies: int) -> Callable[[], list[Any]]:
    """List and classify the pods, and return a function that reaps them."""
    settings = load("settings").Settings(namespaces=namespace, max_deletes=zombies, settle_seconds=0)
    if VERIFIES:
        api = load("kube.workloads").KubeClient(conn_id)
        pods = api.list_workloads([namespace], settings.label_selector).workloads
    else:
        api = load("pods").PodApi(conn_id)
        pods = api.list_pods(settings).pods
    source, now = InMemorySource(pods), int(time.time())
    module = load("classify")
    if VERIFIES:
        verdicts = module.classify(module.Snapshot(pods, source.task_instances, settings, now))
    else:
        verdicts = module.classify(pods, source.task_instances, settings, now)
    last_argument = [namespace] if VERIFIES else time.time
    return partial(load("reap").reap, [v for v in verdicts if v.is_zombie], api, source, settings, last_argument)


def main() -> None:
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        namespace, zombies = line.split()
        reap = prepare(sys.argv[1], namespace, int(zombies))
        gc.collect()
        gc.disable()  # as the tasks do
        start = time.perf_counter()
        results = reap()
        print("took", time.perf_counter() - start, flush=True)
        gc.enable()
        if [result.outcome.value for result in results] != ["deleted"] * int(zombies):
            raise SystemExit(f"not all of {zombies} zombies were deleted: {results[:1]}")


if __name__ == "__main__":
    main()
