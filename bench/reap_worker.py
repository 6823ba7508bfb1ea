"""`python bench/reap_worker.py CONN_ID`, with a tree of ours on PYTHONPATH: it reaps when it is told to.

Each line of the input names a namespace and how many zombies are in it. The answer is `took` and the seconds of
the reaping alone. The tree is this one, or that of the commit before the proofs, whose modules had other names.
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
HAS_PROOFS = find_spec(f"{PACKAGE}.kube").submodule_search_locations is not None  # type: ignore[union-attr]


def load(module: str) -> Any:
    return import_module(f"{PACKAGE}.{module}")


class Memory:
    """A source that knows the answers: all task instances have failed, and their records name their pods."""

    description = "the benchmark"

    def __init__(self, pods: Sequence[Any]) -> None:
        known = load("task_instance" if HAS_PROOFS else "task_instances")
        failed = known.TaskInstance("failed", 1, int(time.time()), "KubernetesPodOperator")
        self.told = known.TaskInstances({pod.key: failed for pod in pods})
        if HAS_PROOFS:
            self._records = {pod.key: known.Record(frozenset([str(pod)])) for pod in pods}

    def fetch(self, keys: Any) -> Any:
        return self.told

    def read_records(self, task_instances: Any, keys: Any) -> Any:
        return {key: self._records[key] for key in keys}


def prepare(conn_id: str, namespace: str, zombies: int) -> Callable[[], list[Any]]:
    """List and judge the pods; gives the call that reaps them."""
    settings = load("settings").Settings(namespaces=namespace, max_deletes=zombies, settle_seconds=0)
    api = load("kube.pods" if HAS_PROOFS else "pods").PodClient(conn_id)
    pods = api.list_pods(*([[namespace], settings.label_selector] if HAS_PROOFS else [settings])).pods
    source, now = Memory(pods), int(time.time())
    judging = load("classify")
    if HAS_PROOFS:
        verdicts = judging.classify(judging.Snapshot(pods, source.told, settings, now))
    else:
        verdicts = judging.classify(pods, source.told, settings, now)
    last = [namespace] if HAS_PROOFS else time.time
    return partial(load("reap").reap, [v for v in verdicts if v.is_zombie], api, source, settings, last)


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
            raise SystemExit(f"not all of {zombies} were deleted: {results[:1]}")


if __name__ == "__main__":
    main()
