"""Pods with hostile or absurd labels and annotations: each has its documented reason, and only zombies are deleted."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from include.kpo_cleanup import xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.identity import TaskInstanceKey, make_key, to_label_value
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import POD_RECORD, Record, RecordKeys, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.verdict import Verdict
from tests.faults.cases import POD_CASES, PodCase
from tests.faults.servers import Server

MARK = {"listed-by": "this-test"}  # so that the label selector of the settings matches every pod
LABELS = {
    "dag_id": "orders",
    "task_id": "extract",
    "run_id": "run_1",
    "try_number": "1",
    "kubernetes_pod_operator": "True",
    **MARK,
}
RANDOM_PODS = {"embedded": 1_000, "real": 250}
LONG_IDS = ["d" * 250, "long-id." * 31, "Ünïcödé-" * 31, "日本a" * 83]

# Not written by Airflow as a number, but a valid label for the API server.
NOT_NUMBERS = [
    "",
    "one",
    "1.0",
    "01",
    "00",
    "1e3",
    "0x1",
    "1_000",
    "2147483648",
    "9" * 63,
    "1-1",
    "True",
    "None",
    "NaN",
]


class AllFailed(TaskInstanceSource):
    """A source in which the task instances of some DAGs have failed, and the others do not exist."""

    description = "the memory of the test"

    def __init__(self, dag_ids: Collection[str], indexes: Collection[int] = (-1,)) -> None:
        self._dag_ids, self._indexes = dag_ids, indexes

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        known = [key for key in keys if key.dag_id in self._dag_ids and key.map_index in self._indexes]
        return TaskInstances({key: TaskInstance("failed", 2**31 - 1, int(time.time())) for key in known})

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        return {}


@pytest.fixture
def page_size() -> int:
    return 200


@pytest.fixture
def settings(namespace: str) -> Settings:
    return Settings(namespaces=namespace, label_selector="listed-by", settle_seconds=0)


def classify_all(api: KubeClient, settings: Settings, source: AllFailed) -> dict[str, Verdict]:
    """Return the verdicts by pod name. All data passes through XComs, as between the tasks of the DAG."""
    listing = xcom.load_listing(
        xcom.dump_listing(api.list_workloads(settings.namespace_list(), settings.label_selector))
    )
    assert not listing.errors_by_namespace
    found = source.fetch({pod.key for pod in listing.workloads if not pod.label_problem})
    task_instances, _ = xcom.load_task_instances(xcom.dump_task_instances(found))
    verdicts = classify(Snapshot(listing.workloads, task_instances, settings, in_a_minute()))
    assert len({verdict.workload.uid for verdict in verdicts}) == len(verdicts)
    return {verdict.workload.name: verdict for verdict in verdicts}


def in_a_minute() -> int:
    return int(time.time()) + 60


def changed(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**labels, **changes}.items() if value is not None}


def assert_only_these_are_deleted(
    server: Server, api: KubeClient, settings: Settings, source: AllFailed, zombies: set[str]
) -> None:
    verdicts = classify_all(api, settings, source)
    found = [verdict for verdict in verdicts.values() if verdict.is_zombie]
    results = reap(found, api, source, settings, [settings.namespaces], in_a_minute)
    assert {result.verdict.workload.name: result.outcome for result in results} == dict.fromkeys(
        zombies, Outcome.DELETED
    )
    assert set(server.pods(settings.namespaces)) == set(verdicts) - zombies


@pytest.mark.usefixtures("decoder")
def test_each_odd_pod_has_its_documented_reason_and_only_zombies_are_deleted(
    server: Server, api: KubeClient, settings: Settings
) -> None:
    cases = {f"pod-{number}": case for number, case in enumerate(POD_CASES)}
    for name, case in cases.items():
        server.create_pod(settings.namespaces, name, changed(LABELS, case.labels), **case.metadata)
        server.set_status(settings.namespaces, name, phase="Running")
    source = AllFailed(["orders", "orders-0123456ab"])

    found = {cases[name].id: verdict.reason.value for name, verdict in classify_all(api, settings, source).items()}
    assert found == {case.id: case.reason.value for case in POD_CASES}
    zombies = {name for name, case in cases.items() if case.is_zombie}
    assert_only_these_are_deleted(server, api, settings, source, zombies)


@pytest.mark.parametrize("value", [None, "", "true", "False"], ids=repr)
def test_a_pod_without_the_operators_label_is_not_listed(
    server: Server, api: KubeClient, settings: Settings, value: str | None
) -> None:
    """The executor's worker pods have the same other labels."""
    server.create_pod(settings.namespaces, "odd", changed(LABELS, {"kubernetes_pod_operator": value}))
    assert classify_all(api, settings, AllFailed(["orders"])) == {}


@pytest.mark.parametrize("case", [case for case in POD_CASES if case.reason is Reason.BAD_LABELS], ids=lambda c: c.id)
def test_the_label_problem_names_the_label(server: Server, api: KubeClient, settings: Settings, case: PodCase) -> None:
    server.create_pod(settings.namespaces, "odd", changed(LABELS, case.labels))
    (verdict,) = classify_all(api, settings, AllFailed(["orders"])).values()
    (label,) = case.labels
    assert f"label {label}" in verdict.workload.label_problem


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("raw_id", LONG_IDS, ids=["letters", "dots", "umlauts", "kanji"])
def test_a_task_instance_with_an_id_of_250_characters_is_found_by_its_label(
    server: Server, api: KubeClient, settings: Settings, raw_id: str
) -> None:
    ids = {"dag_id": to_label_value(raw_id), "run_id": to_label_value(raw_id)}
    for name in ("over", "live"):
        server.create_pod(settings.namespaces, name, {**LABELS, **ids, "task_id": to_label_value(raw_id + name)})
    task_instances = TaskInstances(
        {
            make_key(raw_id, raw_id + "over", raw_id, -1): TaskInstance("failed", 2, int(time.time())),
            make_key(raw_id, raw_id + "live", raw_id, -1): TaskInstance("running", 1),
        }
    )
    listed = api.list_workloads(settings.namespace_list(), settings.label_selector).workloads
    verdicts = classify(Snapshot(listed, task_instances, settings, in_a_minute()))
    assert {verdict.workload.name: verdict.reason for verdict in verdicts} == {
        "over": Reason.ORPHANED,
        "live": Reason.ACTIVE,
    }


@pytest.mark.parametrize("value", ["t" * 64, "über", "a b", "-1", "a/b", "1\n"], ids=repr)
def test_the_api_server_rejects_a_label_with_the_value(server: Server, namespace: str, value: str) -> None:
    with pytest.raises(AssertionError, match=r"metadata\.labels: Invalid value"):
        server.create_pod(namespace, "rejected", {**LABELS, "task_id": value})


def random_pods(seed: int, count: int) -> Iterator[tuple[str, dict[str, str], dict[str, Any], Reason]]:
    """Yield names, labels and metadata of pods, each with the reason that it must have."""
    choose = random.Random(seed)
    text = string.ascii_letters + string.digits
    annotation = text + " \t\n\r\0\"'\\{}[]<>&%$#äßπ漢🚀\u202e\u200b\ufeff\u2028"
    for number in range(count):
        labels, reason = dict(LABELS), Reason.ORPHANED
        metadata: dict[str, Any] = {}
        metadata["annotations"] = {
            f"note-{n}": "".join(choose.choices(annotation, k=choose.randrange(200)))
            for n in range(choose.randrange(3))
        }
        for name in ("task_id", "run_id"):
            length = choose.choice([1, 2, 30, 62, 63])
            labels[name] = "".join(choose.choices(text, k=length))
        labels["dag_id"] = choose.choice(["orders", "orders", to_label_value("d" * 250), "orders-0123456ab"])
        labels["try_number"] = choose.choice(["0", "1", "2", "999999999", "2147483647"])
        if choose.random() < 0.3:
            labels["map_index"] = choose.choice(["0", "7", "2147483647"])
        # The reasons are in the reverse order of the rules, so that the last one that is chosen is the right one.
        if choose.random() < 0.2:
            labels["dag_id"], reason = choose.choice(["Orders", "staging", "x" * 63]), Reason.UNMATCHED
        if choose.random() < 0.15:
            metadata["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "ReplicationController", "name": "rc", "uid": "1", "controller": True}
            ]
            reason = Reason.OWNED
        if choose.random() < 0.15:
            value = choose.choice(["true", "TRUE", "yes", "1", "", "🙏", "falsé"])
            metadata["annotations"]["kpo-cleanup/protect"] = value
            reason = Reason.PROTECTED
        if choose.random() < 0.4:
            name = choose.choice(["dag_id", "task_id", "run_id", "try_number", "map_index"])
            if name in ("try_number", "map_index"):
                labels[name] = choose.choice(NOT_NUMBERS)
            elif choose.random() < 0.5:
                del labels[name]
            else:
                labels[name] = ""
            reason = Reason.BAD_LABELS
        yield f"pod-{number}", labels, metadata, reason


def test_random_pods_have_the_right_reasons_and_only_zombies_are_deleted(
    server: Server, api: KubeClient, settings: Settings, request: pytest.FixtureRequest
) -> None:
    seed = 24
    pods = list(random_pods(seed, RANDOM_PODS[request.node.callspec.params["server"]]))

    def create(pod: tuple[str, dict[str, str], dict[str, Any], Reason]) -> None:
        name, labels, metadata, _ = pod
        server.create_pod(settings.namespaces, name, labels, **metadata)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, pods))
    source = AllFailed(["orders", "orders-0123456ab", to_label_value("d" * 250)], (-1, 0, 7, 2147483647))

    verdicts = classify_all(api, settings, source)
    expected = {name: reason for name, _, _, reason in pods}
    wrong = {
        name: (verdicts[name].reason, reason) for name, reason in expected.items() if verdicts[name].reason != reason
    }
    assert not wrong
    assert len(verdicts) == len(pods)
    zombies = {name for name, reason in expected.items() if reason is Reason.ORPHANED}
    assert len(zombies) > len(pods) / 5  # enough pods are deleted for the test to be meaningful
    assert set(expected.values()) == {*map(Reason, ("orphaned", "unmatched", "owned", "protected", "bad_labels"))}
    assert_only_these_are_deleted(server, api, settings, source, zombies)
