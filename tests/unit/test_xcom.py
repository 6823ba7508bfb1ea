"""The data between the tasks: JSON loses nothing, and a listing of a thousand pods is small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.errors import KpoCleanupError, RetryableApiError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key, to_label_value
from include.kpo_cleanup.kube.interface import Listing
from include.kpo_cleanup.task_instance import RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.registry import KINDS
from include.kpo_cleanup.workloads.workload import Container, Links, Owner, Workload
from include.kpo_cleanup.xcom import (
    MAX_KEPT,
    dump_classification,
    dump_listing,
    dump_task_instances,
    load_classification,
    load_listing,
    load_task_instances,
)
from tests.unit.builders import HOUR, NOW, make_pod, make_verdict

TEXT = st.text(max_size=12)
EVIDENCE = st.lists(TEXT, max_size=3).map(tuple)
TIMES = st.integers(0, 2**33)
NAMES = st.text("az09-", min_size=1, max_size=8)
CONTAINERS = st.builds(
    Container,
    NAMES,
    st.sampled_from(["running", "waiting", "terminated"]),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.integers(0, 255),
    TEXT,
    st.booleans(),
    st.booleans(),
    TEXT,
    st.integers(0, 300),
    TEXT,
)
OWNERS = st.builds(Owner, TEXT, NAMES, TEXT, TEXT)
RAW_IDS = st.builds(RawIds, TEXT, TEXT, TEXT)
MAP_INDEXES = st.integers(UNMAPPED, 2**31 - 1)
POD_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "namespace": st.sampled_from(["one", "two"]),
    "name": NAMES,
    "uid": st.uuids().map(str),
    "created": TIMES,
    "resource_version": st.just(""),
    "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    "key": st.builds(TaskInstanceKey, *[st.sampled_from(["", "a", "b"]) | TEXT] * 3, MAP_INDEXES),
    "try_number": st.integers(0, 2**31 - 1),
    "labels": st.dictionaries(NAMES, TEXT, max_size=2).map(lambda labels: tuple(sorted(labels.items()))),
    "label_problem": TEXT,
    "protected_by": TEXT,
    "controller": st.none() | OWNERS,
    "phase_reason": TEXT,
    "phase_message": TEXT,
    "node": TEXT,
    "image": TEXT,
    "already_checked": st.booleans(),
    "grace_period": st.integers(0, 86_400),
    "deletion_deadline": st.none() | TIMES,
    "finalizers": st.lists(TEXT, max_size=2).map(tuple),
    "main_container": NAMES,
    "conditions_changed": st.none() | TIMES,
    "containers": st.lists(CONTAINERS, max_size=3).map(tuple),
    "requests": st.dictionaries(NAMES, st.floats(0, 1e12), max_size=3).map(lambda d: tuple(sorted(d.items()))),
    "kind": st.sampled_from([*KINDS, "Widget"]),
    "links": st.builds(Links, st.none() | OWNERS, st.none() | OWNERS, TEXT, TEXT, st.integers(0, 9)),
}
PODS = st.builds(Workload, **POD_FIELDS)
KEYS = st.builds(TaskInstanceKey, *[st.text("aB1", max_size=12)] * 3, MAP_INDEXES)
LABELLED_PODS = st.builds(Workload, **{**POD_FIELDS, "key": KEYS})  # with ids that are label values
TIS = st.builds(
    TaskInstance,
    st.none() | st.sampled_from(["success", "running"]),
    st.none() | st.integers(0, 9),
    st.none() | TIMES,
    st.none() | NAMES,
)


ERRORS = st.builds(KpoCleanupError, st.text(min_size=1, max_size=12), cause=TEXT, remedy=TEXT, server_message=TEXT)


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def fields_of(errors_by_namespace: Mapping[str, KpoCleanupError]) -> dict[str, dict[str, str]]:
    return {namespace: error.fields for namespace, error in errors_by_namespace.items()}


class TestListing:
    def test_every_field_of_a_pod_is_tested(self) -> None:
        assert set(POD_FIELDS) == {field.name for field in fields(Workload)}

    @given(st.lists(PODS, max_size=3), st.dictionaries(NAMES, ERRORS, max_size=2))
    def test_a_listing_is_loaded_as_it_was_dumped(
        self, pods: list[Workload], errors: dict[str, KpoCleanupError]
    ) -> None:
        loaded = load_listing(through_json(dump_listing(Listing(pods, errors))))
        assert Counter(loaded.workloads) == Counter(pods)
        assert fields_of(loaded.errors_by_namespace) == fields_of(errors)

    @given(CONTAINERS)
    def test_a_container_is_loaded_as_it_was_dumped(self, container: Container) -> None:
        listing = Listing([make_pod(containers=(container,))])
        assert load_listing(through_json(dump_listing(listing))).workloads[0].containers == (container,)

    def test_each_id_is_written_once(self) -> None:
        pods = [make_pod(map_index=index) for index in range(20)]
        text = json.dumps(dump_listing(Listing(pods))).replace("\\", "")
        assert [text.count(f'"{word}"') for word in ("airflow", "orders", "extract", "run_1")] == [1, 1, 1, 1]

    def test_a_listing_has_a_summary_the_errors_and_the_names_of_its_columns(self) -> None:
        error = RetryableApiError("listing pods", cause="503 Service Unavailable")
        data = dump_listing(Listing([make_pod(), make_pod(namespace="other")], {"x": error}))
        assert data["summary"] == "pods: 2, in: airflow, other"
        assert data["unlisted"] == {"x": {"summary": "listing pods", "cause": "503 Service Unavailable"}}
        row = json.loads(data["tree"]["airflow"]["orders"])["extract"]["run_1"][0]
        assert len(data["columns"]) >= len(row)

    def test_the_summary_is_near_the_top_even_if_the_keys_are_sorted_as_on_airflow_2(self) -> None:
        assert sorted(dump_listing(Listing()))[:2] == ["columns", "summary"]

    @pytest.mark.parametrize("version", ["0.1.9", None], ids=["an older version", "a version that was not written"])
    def test_the_listing_of_another_version_is_rejected(self, version: str | None) -> None:
        data = {**dump_listing(Listing()), "version": version}
        if version is None:
            del data["version"], data["tables"]
        with pytest.raises(
            KpoCleanupError, match=f"the XCom of list_pods was written by kpo_cleanup {version or '0.1.0'}, but this is"
        ):
            load_listing(data)

    @pytest.mark.parametrize(
        ("runs", "limit"),
        [
            pytest.param(1, 220, id="ten tasks share a run"),
            pytest.param(5, 250, id="each task is alone in its run"),
        ],
    )
    def test_the_listing_of_a_thousand_pods_is_small(self, runs: int, limit: int) -> None:
        pods = [
            make_pod(
                name=f"load-customer-orders-{number:08x}",
                dag_id=f"customer_orders_{number // 50}",
                task_id=f"load_customer_orders_{number % 10}",
                run_id=to_label_value(f"scheduled__2026-11-{number // 10 % runs + 1:02d}T00:00:00+00:00"),
                containers=(
                    Container("base", "terminated", None, NOW - HOUR, 0),
                    Container("airflow-xcom-sidecar", "running", NOW - 2 * HOUR),
                ),
                resource_version="12345678",
                requests=(("cpu", 0.251), ("memory", 522 * 2.0**20)),
            )
            for number in range(1_000)
        ]
        assert len(json.dumps(dump_listing(Listing(pods)))) / len(pods) <= limit

    def test_each_dag_is_a_single_string_because_airflow_copies_every_list_and_dict(self) -> None:
        pods = [make_pod(dag_id=f"dag_{number % 3}", run_id=f"run_{number}") for number in range(1_000)]
        tree = dump_listing(Listing(pods))["tree"]["airflow"]
        assert list(map(type, tree.values())) == [str] * 3


class TestTaskInstances:
    @given(
        st.dictionaries(st.builds(RawIds, TEXT, TEXT, TEXT), TIS, max_size=6), st.dictionaries(KEYS, TEXT, max_size=3)
    )
    def test_task_instances_are_loaded_as_they_were_dumped(
        self, found: dict[RawIds, TaskInstance], unresolved: dict[TaskInstanceKey, str]
    ) -> None:
        by_key = {make_key(*ids, UNMAPPED): (ids, ti) for ids, ti in found.items()}
        before = TaskInstances(
            {key: ti for key, (_, ti) in by_key.items()},
            unresolved,
            {key: (ids,) for key, (ids, _) in by_key.items()},
            try_number_may_lag=len(found) % 2 == 0,
        )
        assert load_task_instances(through_json(dump_task_instances(before))) == (before, {})

    def test_a_raw_id_is_written_only_if_it_differs_from_its_label_and_only_once(self) -> None:
        raw_run = "scheduled__2026-11-24T00:00:00+00:00"
        keys = [TaskInstanceKey("orders", "load", to_label_value(raw_run), index) for index in range(9)]
        raw_ids = dict.fromkeys(keys, (RawIds("orders", "load", raw_run),))
        data = dump_task_instances(TaskInstances(dict.fromkeys(keys, TaskInstance("failed")), raw_ids=raw_ids))
        assert data["unhashed"] == {to_label_value(raw_run): raw_run}

    @given(st.dictionaries(KEYS, st.builds(Record, st.frozensets(TEXT, max_size=2), TEXT), max_size=3))
    def test_records_are_loaded_as_they_were_dumped(self, records: dict[TaskInstanceKey, Record]) -> None:
        data = through_json(dump_task_instances(TaskInstances(), records))
        assert load_task_instances(data) == (TaskInstances(), records)

    def test_the_summary_counts_active_and_finished_task_instances(self) -> None:
        keys = [TaskInstanceKey("d", "t", "r", index) for index in range(3)]
        found = {keys[0]: TaskInstance(None), keys[1]: TaskInstance("running"), keys[2]: TaskInstance("failed")}
        summary = dump_task_instances(TaskInstances(found))["summary"]
        assert summary == "2 active and 1 finished task instances of the workloads"

    @pytest.mark.parametrize(
        ("ti", "row"),
        [
            (TaskInstance(None), [UNMAPPED, None]),
            (TaskInstance("running"), [UNMAPPED, "running"]),
            (TaskInstance(None, 2), [UNMAPPED, None, 2]),
            (TaskInstance("failed", None, NOW), [UNMAPPED, "failed", None, NOW]),
        ],
    )
    def test_fields_that_are_not_known_are_left_out(self, ti: TaskInstance, row: list[Any]) -> None:
        data = through_json(dump_task_instances(TaskInstances({TaskInstanceKey("d", "t", "r"): ti})))
        assert json.loads(data["task_instances"]["d"])["t"]["r"] == [row]


class TestZombies:
    @given(st.lists(st.tuples(LABELLED_PODS, st.booleans(), st.sampled_from(Reason), EVIDENCE), max_size=3), ERRORS)
    def test_zombies_are_loaded_in_their_order_with_name_age_task_reason_and_evidence(
        self, drawn: list[tuple[Workload, bool, Reason, tuple[str, ...]]], error: KpoCleanupError
    ) -> None:
        def carried(verdict: Verdict) -> tuple[Any, ...]:
            pod = verdict.workload
            names = (str(pod), pod.uid, pod.created, pod.key, pod.try_number)
            return *names, verdict.is_zombie, verdict.reason, verdict.evidence

        verdicts = [Verdict(*each) for each in drawn]
        loaded = load_classification(through_json(dump_classification(verdicts, {"default": error})))
        assert fields_of(loaded.errors_by_namespace) == {"default": error.fields}
        assert loaded.workloads == len(verdicts)
        assert [*map(carried, loaded.zombies)] == [carried(verdict) for verdict in verdicts if verdict.is_zombie]

    def test_a_zombie_is_written_so_that_people_can_read_it(self) -> None:
        verdict = make_verdict(workload=make_pod(name="extract-1", uid="uid-1", node="worker-3", image="busybox:1.36"))
        assert dump_classification([verdict], {})["zombies"] == [
            {
                "pod": "airflow/extract-1",
                "reason": "orphaned",
                "evidence": ["task instance failed (try 1) 60 min ago", "base running 2 h"],
                "dag_id": "orders",
                "task_id": "extract",
                "map_index": -1,
                "try_number": 1,
                "run_id": "run_1",
                "cause": "base is still running, but its operator is gone",
                "node": "worker-3",
                "image": "busybox:1.36",
                "uid": "uid-1",
                "created": NOW - 2 * HOUR,
            }
        ]

    def test_a_zombie_is_written_with_the_raw_ids_and_the_link_of_its_task_instance_and_loaded_with_its_labels(
        self,
    ) -> None:
        raw = RawIds("orders", "load", "scheduled__2026-11-24T00:00:00+00:00")
        pod = make_pod(task_id="load", run_id=to_label_value(raw.run_id))
        data = through_json(dump_classification([make_verdict(workload=pod, raw_ids=raw, link="http://airflow/x")], {}))
        assert data["zombies"][0].items() >= {**raw._asdict(), "link": "http://airflow/x"}.items()
        (loaded,) = load_classification(data).zombies
        assert (loaded.workload.key, loaded.raw_ids, loaded.link) == (pod.key, raw, "http://airflow/x")

    def test_zombies_and_kept_pods_are_counted_by_reason_and_zombies_by_dag(self) -> None:
        zombies = [
            make_verdict(),
            make_verdict(reason=Reason.SUPERSEDED, workload=make_pod(dag_id="sales")),
            make_verdict(),
        ]
        kept = [make_verdict(is_zombie=False, reason=Reason.OWNED), make_verdict(is_zombie=False, reason=Reason.ACTIVE)]
        data = dump_classification([*zombies, *kept], {})
        assert data["zombies_by_reason"] == {"superseded": 1, "orphaned": 2}
        assert data["kept_by_reason"] == {"owned": 1, "active": 1}
        assert list(data["zombies_by_dag"].items()) == [("orders", 2), ("sales", 1)]

    @pytest.mark.parametrize(
        ("kinds", "noun"),
        [(["Pod", "Pod"], "pod"), (["Job", "Job"], "Job"), (["Pod", "Job"], "workload")],
        ids=["pods", "Jobs", "both"],
    )
    def test_workloads_are_counted_under_the_same_key_whatever_they_are(self, kinds: list[str], noun: str) -> None:
        data = dump_classification([make_verdict(workload=make_pod(kind=kind)) for kind in kinds], {})
        assert (data["workloads"], data["noun"]) == (2, noun)

    def test_zombies_are_counted_by_the_dag_id_that_airflow_shows(self) -> None:
        raw = RawIds("x" * 70, "load", "run_1")
        zombies = [make_verdict(workload=make_pod(dag_id=to_label_value(raw.dag_id)), raw_ids=raw)]
        assert dump_classification(zombies, {})["zombies_by_dag"] == {raw.dag_id: 1}

    def test_candidates_whose_record_was_not_read_are_only_counted(self) -> None:
        candidates = [make_verdict(is_zombie=False, awaits_record=True) for _ in range(3)]
        data = dump_classification([make_verdict(), *candidates, make_verdict(is_zombie=False)], {})
        assert (len(data["zombies"]), len(data["untouched"]), sum(data["kept_by_reason"].values())) == (1, 1, 1)
        assert load_classification(through_json(data)).candidates == 3

    def test_some_kept_pods_are_written_but_no_active_ones(self) -> None:
        def kept(reason: Reason, name: str) -> Verdict:
            return make_verdict(is_zombie=False, reason=reason, workload=make_pod(name=name), evidence=("why",))

        many = [kept(Reason.OWNED, f"o{number}") for number in range(MAX_KEPT + 3)]
        rows = dump_classification([make_verdict(), kept(Reason.ACTIVE, "a"), *many], {})["untouched"]
        assert [row["pod"] for row in rows] == [f"airflow/o{number}" for number in range(MAX_KEPT)]
        assert rows[0] == {
            "pod": "airflow/o0",
            "reason": "owned",
            "evidence": ["why"],
            "dag_id": "orders",
            "task_id": "extract",
            "map_index": -1,
            "try_number": 1,
            "run_id": "run_1",
        }

    @pytest.mark.parametrize(
        "change",
        [{"zombies": None}, {"zombies": [{}]}, {"unlisted": {"x": {"odd": "field"}}}, {"unlisted": 1}],
        ids=[
            "zombies is not a list",
            "a zombie has no name",
            "an error has an unknown field",
            "the errors are a number",
        ],
    )
    def test_a_classification_that_was_modified_is_rejected(self, change: dict[str, Any]) -> None:
        with pytest.raises(KpoCleanupError, match=r"the XCom of classify cannot be read: \w+Error: "):
            load_classification({**dump_classification([], {}), **change})
