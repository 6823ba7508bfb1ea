"""The data between the tasks: nothing is lost as JSON, and ten thousand pods fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, to_label_value
from include.kpo_cleanup.kube.interface import Listing
from include.kpo_cleanup.pod import Container, Owner, Pod
from include.kpo_cleanup.task_instance import Record, TaskInstance, TaskInstances
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
TIMES = st.integers(0, 2**33)
NAMES = st.from_regex(r"\A[a-z]([-a-z0-9]{0,8}[a-z0-9])?\Z")
CONTAINERS = st.builds(
    Container,
    NAMES,
    st.sampled_from(["running", "waiting", "terminated"]),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.integers(0, 255),
    TEXT,
)
KEYS = st.builds(TaskInstanceKey, TEXT, TEXT, TEXT, st.integers(UNMAPPED, 2**31 - 1))
POD_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "namespace": st.sampled_from(["one", "two"]),
    "name": NAMES,
    "uid": st.uuids().map(str),
    "created": TIMES,
    "resource_version": st.just(""),
    "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    "dag_id": st.sampled_from(["", "a", "b"]) | TEXT,
    "task_id": st.sampled_from(["", "a", "b"]) | TEXT,
    "run_id": st.sampled_from(["", "a", "b"]) | TEXT,
    "map_index": st.integers(UNMAPPED, 2**31 - 1),
    "try_number": st.integers(0, 2**31 - 1),
    "labels": st.dictionaries(NAMES, TEXT, max_size=2).map(lambda labels: tuple(sorted(labels.items()))),
    "label_problem": TEXT,
    "protected_by": TEXT,
    "controller": st.none() | st.builds(Owner, TEXT, NAMES, TEXT, TEXT),
    "job": TEXT,
    "phase_reason": TEXT,
    "already_checked": st.booleans(),
    "grace_period": st.integers(0, 86_400),
    "deletion_deadline": st.none() | TIMES,
    "finalizers": st.lists(TEXT, max_size=2).map(tuple),
    "main_container": NAMES,
    "containers": st.lists(CONTAINERS, max_size=3).map(tuple),
    "requests": st.dictionaries(NAMES, st.floats(0, 1e12), max_size=3).map(lambda d: tuple(sorted(d.items()))),
}
PODS = st.builds(Pod, **POD_FIELDS)
TIS = st.builds(
    TaskInstance,
    st.none() | st.sampled_from(["success", "running"]),
    st.none() | st.integers(0, 9),
    st.none() | TIMES,
    st.none() | TEXT,
)


NOT_LISTED = KpoCleanupError("listing pods", cause="403 Forbidden")
ERRORS = st.builds(KpoCleanupError, TEXT, cause=TEXT, remedy=TEXT, server_message=TEXT)


def fields_of(errors: Mapping[str, KpoCleanupError]) -> dict[str, dict[str, str]]:
    return {namespace: error.fields for namespace, error in errors.items()}


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


class TestListing:
    def test_is_tested_with_every_field_of_a_pod(self) -> None:
        """Check that a new field is tested, too: it must survive the way from one task to the next."""
        assert set(POD_FIELDS) == {field.name for field in fields(Pod)}

    @given(st.lists(PODS, max_size=6), st.dictionaries(NAMES, ERRORS, max_size=2))
    def test_comes_back_as_it_was(self, pods: list[Pod], unlisted: dict[str, KpoCleanupError]) -> None:
        loaded = load_listing(through_json(dump_listing(Listing(pods, unlisted))))
        assert Counter(loaded.pods) == Counter(pods)
        assert fields_of(loaded.errors_by_namespace) == fields_of(unlisted)

    @given(CONTAINERS)
    def test_keeps_every_container(self, container: Container) -> None:
        listing = Listing([make_pod(containers=(container,))])
        assert load_listing(through_json(dump_listing(listing))).pods[0].containers == (container,)

    def test_writes_each_id_once(self) -> None:
        pods = [make_pod(map_index=index) for index in range(20)]
        text = json.dumps(dump_listing(Listing(pods))).replace("\\", "")
        assert [text.count(f'"{word}"') for word in ("airflow", "orders", "extract", "run_1")] == [1, 1, 1, 1]

    def test_says_in_words_what_it_is(self) -> None:
        data = dump_listing(Listing([make_pod(), make_pod(namespace="other")], {"x": NOT_LISTED}))
        assert data["summary"] == "pods: 2, in: airflow, other"
        assert data["unlisted"] == {"x": {"summary": "listing pods", "cause": "403 Forbidden"}}
        row = json.loads(data["tree"]["airflow"]["orders"])["extract"]["run_1"][0]
        assert len(data["columns"]) >= len(row)

    @pytest.mark.parametrize("version", ["0.1.9", None], ids=["of an older version", "of one that did not say"])
    def test_is_not_read(self, version: str | None) -> None:
        data = {**dump_listing(Listing()), "version": version}
        if version is None:
            del data["version"], data["requests"]
        with pytest.raises(
            KpoCleanupError, match=f"list_pods was run by kpo_cleanup {version or '0.1.0'}, and this is"
        ):
            load_listing(data)

    @pytest.mark.parametrize(
        ("runs", "limit"),
        [
            pytest.param(1, 220, id="when ten tasks share a run"),
            pytest.param(5, 250, id="when each is alone in its run"),
        ],
    )
    def test_of_a_thousand_pods_is_small(self, runs: int, limit: int) -> None:
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

    def test_has_few_things_that_airflow_could_copy(self) -> None:
        """Check that they are as many as the DAGs: Airflow copies each list and each dict, several times."""
        pods = [make_pod(dag_id=f"dag_{number % 3}", run_id=f"run_{number}") for number in range(1_000)]
        tree = dump_listing(Listing(pods))["tree"]["airflow"]
        assert list(map(type, tree.values())) == [str] * 3


class TestTaskInstances:
    @given(st.dictionaries(KEYS, TIS, max_size=6), st.dictionaries(KEYS, TEXT, max_size=3))
    def test_come_back_as_they_were(
        self, found: dict[TaskInstanceKey, TaskInstance], unresolved: dict[TaskInstanceKey, str]
    ) -> None:
        before = TaskInstances(found, unresolved, try_number_may_lag=len(found) % 2 == 0)
        assert load_task_instances(through_json(dump_task_instances(before))) == (before, {})

    @given(st.dictionaries(KEYS, st.builds(Record, st.frozensets(TEXT, max_size=2), TEXT), max_size=3))
    def test_come_with_the_records_of_their_operators(self, records: dict[TaskInstanceKey, Record]) -> None:
        data = through_json(dump_task_instances(TaskInstances(), records))
        assert load_task_instances(data) == (TaskInstances(), records)

    def test_say_how_many_are_active(self) -> None:
        keys = [TaskInstanceKey("d", "t", "r", index) for index in range(3)]
        found = {keys[0]: TaskInstance(None), keys[1]: TaskInstance("running"), keys[2]: TaskInstance("failed")}
        summary = dump_task_instances(TaskInstances(found))["summary"]
        assert summary == "2 active and 1 finished task instances of these pods"

    @pytest.mark.parametrize(
        ("ti", "row"),
        [
            (TaskInstance(None), [UNMAPPED, None]),
            (TaskInstance("running"), [UNMAPPED, "running"]),
            (TaskInstance(None, 2), [UNMAPPED, None, 2]),
            (TaskInstance("failed", None, NOW), [UNMAPPED, "failed", None, NOW]),
        ],
    )
    def test_leave_out_what_is_not_known(self, ti: TaskInstance, row: list[Any]) -> None:
        data = through_json(dump_task_instances(TaskInstances({TaskInstanceKey("d", "t", "r"): ti})))
        assert json.loads(data["task_instances"]["d"])["t"]["r"] == [row]


class TestZombies:
    @given(st.lists(st.tuples(PODS, st.booleans(), st.sampled_from(Reason), TEXT), max_size=6))
    def test_come_back_in_their_order_with_whose_they_were(self, drawn: list[tuple[Pod, bool, Reason, str]]) -> None:
        def told(verdict: Verdict) -> tuple[Any, ...]:
            pod = verdict.pod
            return str(pod), pod.uid, pod.key, pod.try_number, verdict.is_zombie, verdict.reason, verdict.evidence

        verdicts = [Verdict(*each) for each in drawn]
        loaded = load_classification(through_json(dump_classification(verdicts, {"default": NOT_LISTED})))
        assert fields_of(loaded.errors_by_namespace) == {"default": NOT_LISTED.fields}
        assert loaded.pods == len(verdicts)
        assert [told(verdict) for verdict in loaded.zombies] == [
            told(verdict) for verdict in verdicts if verdict.is_zombie
        ]

    def test_are_readable(self) -> None:
        verdict = make_verdict(pod=make_pod(name="extract-1", uid="uid-1"))
        assert dump_classification([verdict], {})["zombies"] == [
            {
                "pod": "airflow/extract-1",
                "reason": "orphaned",
                "evidence": "task instance failed 1 h ago",
                "dag_id": "orders",
                "task_id": "extract",
                "map_index": -1,
                "try_number": 1,
                "run_id": "run_1",
                "cause": "base works on, but its operator is gone",
                "uid": "uid-1",
            }
        ]

    def test_have_the_kept_pods_beside_them_but_for_the_active_ones_and_not_too_many(self) -> None:
        def kept(reason: Reason, name: str) -> Verdict:
            return make_verdict(is_zombie=False, reason=reason, pod=make_pod(name=name), evidence="why")

        many = [kept(Reason.OWNED, f"o{number}") for number in range(MAX_KEPT + 3)]
        rows = dump_classification([make_verdict(), kept(Reason.ACTIVE, "a"), *many], {})["untouched"]
        assert [row["pod"] for row in rows] == [f"airflow/o{number}" for number in range(MAX_KEPT)]
        assert rows[0] == {
            "pod": "airflow/o0",
            "reason": "owned",
            "evidence": "why",
            "dag_id": "orders",
            "task_id": "extract",
            "map_index": -1,
            "try_number": 1,
            "run_id": "run_1",
        }
