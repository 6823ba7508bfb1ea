"""Classifying: linear in the pods, and next to nothing beside the listing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from bench.cluster import CONN_ID
from bench.results import Figure, Panel, Point, at_most, seconds
from bench.setting import Bench
from bench.timing import interleaved
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.pod import Pod
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import TaskInstance, TaskInstances

PANEL = Panel("classify", "Classifying pods", "pods", "seconds")
ZOMBIES = 10  # every so many pods, one


def measure(bench: Bench) -> Iterator[Figure | Point]:
    size = bench.pods[-1]
    settings, api = Settings(namespaces=bench.cluster.fill(size), settle_seconds=0), PodClient(CONN_ID)
    pods = api.list_pods(settings.namespace_list(), settings.label_selector).pods
    task_instances = task_instances_of(pods)
    now = int(time.time())

    def judge(count: int) -> None:
        classify(Snapshot(pods[:count], task_instances, settings, now))

    sizes = sorted({*bench.pods, size // 10})
    bench.say(f"classifying {', '.join(f'{count:,}' for count in sizes)} pods")
    calls = {f"classify {count}": partial(judge, count) for count in sizes}
    lists = {"list": lambda: api.list_pods(settings.namespace_list(), settings.label_selector)}
    costs = interleaved({**lists, **calls}, bench.repetitions)
    for count in sizes:
        yield Point(PANEL, "kpo_cleanup", count, costs[f"classify {count}"])

    whole, tenth = costs[f"classify {size}"], costs[f"classify {size // 10}"]
    a_pod, a_pod_of_few = whole / size, tenth / (size // 10)
    ours, few = f"{a_pod * 1e6:.1f} µs a pod", f"{a_pod_of_few * 1e6:.1f} µs a pod"
    all_pods = f"{size:,} pods"
    yield Figure("classify", f"its own at {size // 10:,} pods", all_pods, ours, few, a_pod / a_pod_of_few, at_most(1.3))
    listing = costs["list"]
    yield Figure("classify", "listing", all_pods, seconds(whole), seconds(listing), whole / listing, at_most(0.1))


def task_instances_of(pods: Sequence[Pod]) -> TaskInstances:
    """Say what Airflow would: most run, some failed just now, for their pods were made just before."""
    running = TaskInstance("running", 1, None, "KubernetesPodOperator")
    failed = TaskInstance("failed", 1, int(time.time()), "KubernetesPodOperator")
    return TaskInstances({pod.key: running if number % ZOMBIES else failed for number, pod in enumerate(pods)})
