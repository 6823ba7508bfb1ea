"""The cost of classification: linear in the number of pods, and small compared with listing them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from bench.cluster import CONN_ID
from bench.context import Bench
from bench.results import Figure, Panel, Point, at_most, seconds
from bench.timing import interleaved
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import TaskInstance, TaskInstances
from include.kpo_cleanup.workloads.workload import Workload

PANEL = Panel("classify", "Classifying pods", "pods", "seconds")
PODS_PER_ZOMBIE = 10


def measure(bench: Bench) -> Iterator[Figure | Point]:
    size = bench.pods[-1]
    settings, api = Settings(namespaces=bench.cluster.fill(size), settle_seconds=0), KubeClient(CONN_ID)
    pods = api.list_workloads(settings.namespace_list(), settings.label_selector).workloads
    task_instances = task_instances_of(pods)
    now = int(time.time())

    def classify_first(count: int) -> None:
        classify(Snapshot(pods[:count], task_instances, settings, now))

    sizes = sorted({*bench.pods, size // 10})
    bench.progress(f"classifying {', '.join(f'{count:,}' for count in sizes)} pods")
    calls = {f"classify {count}": partial(classify_first, count) for count in sizes}
    list_call = {"list": lambda: api.list_workloads(settings.namespace_list(), settings.label_selector)}
    costs = interleaved({**list_call, **calls}, bench.repetitions)
    for count in sizes:
        yield Point(PANEL, "kpo_cleanup", count, costs[f"classify {count}"])

    few, pods_text = size // 10, f"{size:,} pods"
    total = costs[f"classify {size}"]
    per_pod, per_pod_of_few = total / size, costs[f"classify {few}"] / few
    ours, theirs = f"{per_pod * 1e6:.1f} µs per pod", f"{per_pod_of_few * 1e6:.1f} µs per pod"
    yield Figure("classify", f"itself at {few:,} pods", pods_text, ours, theirs, per_pod / per_pod_of_few, at_most(1.3))
    listing = costs["list"]
    yield Figure("classify", "listing", pods_text, seconds(total), seconds(listing), total / listing, at_most(0.1))


def task_instances_of(pods: Sequence[Workload]) -> TaskInstances:
    """Return task instances for the pods: most are running, one in ten has just failed, after its pod was created."""
    running = TaskInstance("running", 1, None, "KubernetesPodOperator")
    failed = TaskInstance("failed", 1, int(time.time()), "KubernetesPodOperator")
    return TaskInstances({pod.key: running if number % PODS_PER_ZOMBIE else failed for number, pod in enumerate(pods)})
