"""Parsing pods from the JSON of the API, however odd it is."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.kube.decode import make_decoder
from include.kpo_cleanup.workloads.labels import PROTECT_KEY
from include.kpo_cleanup.workloads.pod import parse_pod
from include.kpo_cleanup.workloads.workload import Container, Owner, Workload
from tests.unit.builders import DAY, HOUR, NOW, make_item, make_pod, timestamp

REALISTIC = make_item(
    labels={
        "dag_id": "orders",
        "task_id": "load.extract",
        "run_id": "scheduled__2024-01-01T0000000000-abcdef012",
        "map_index": "3",
        "try_number": "2",
        "already_checked": "True",
        "team": "sales",
    },
    metadata={
        "annotations": {"autoscaler/safe": "false"},
        "ownerReferences": [{"kind": "ConfigMap", "name": "not-a-controller", "uid": "1"}],
        "deletionTimestamp": timestamp(NOW + 30),
        "deletionGracePeriodSeconds": 30,
        "finalizers": ["example.com/a", "example.com/b"],
    },
    spec={
        "nodeName": "worker-3",
        "containers": [
            {
                "name": "base",
                "image": "busybox:1.36",
                "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "2"}},
            },
            {"name": "airflow-xcom-sidecar", "resources": {"requests": {"cpu": "1m", "memory": "10Mi"}}},
            {"name": "proxy", "resources": {}},
            {"name": "logs"},
        ],
    },
    status={
        "phase": "Running",
        "startTime": timestamp(NOW - 2 * HOUR),
        "containerStatuses": [
            {
                "name": "base",
                "state": {
                    "terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": timestamp(NOW - HOUR)},
                },
            },
            {"name": "airflow-xcom-sidecar", "state": {"running": {"startedAt": timestamp(NOW - 2 * HOUR)}}},
            {"name": "proxy", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}},
            {"name": "logs", "state": {}},
        ],
    },
)


def from_labels(**labels: Any) -> Workload:
    return parse_pod(make_item(labels=labels))


def from_metadata(**metadata: Any) -> Workload:
    return parse_pod(make_item(metadata=metadata))


class TestARealisticPod:
    def test_every_field_is_parsed(self) -> None:
        assert parse_pod(REALISTIC) == Workload(
            namespace="airflow",
            name="extract-ab12cd34",
            uid="6f9619ff-8b86-4011-b42d-00c04fc964ff",
            resource_version="4711",
            created=NOW - 2 * HOUR,
            phase="Running",
            key=TaskInstanceKey("orders", "load.extract", "scheduled__2024-01-01T0000000000-abcdef012", 3),
            try_number=2,
            labels=(("team", "sales"),),
            already_checked=True,
            deletion_deadline=NOW + 30,
            finalizers=("example.com/a", "example.com/b"),
            node="worker-3",
            image="busybox:1.36",
            containers=(
                Container("base", "terminated", None, NOW - HOUR, 0),
                Container("airflow-xcom-sidecar", "running", NOW - 2 * HOUR),
                Container("proxy", "waiting", reason="ImagePullBackOff", message="Back-off"),
                Container("logs", "waiting"),
            ),
            requests=(("cpu", 0.251), ("memory", 522 * 2.0**20)),
        )

    def test_its_key_names_the_task_instance_of_its_labels(self) -> None:
        run_id = "scheduled__2024-01-01T0000000000-abcdef012"
        assert parse_pod(REALISTIC).key == TaskInstanceKey("orders", "load.extract", run_id, 3)

    def test_a_pod_of_an_unmapped_task_has_no_map_index(self) -> None:
        assert parse_pod(make_item()).map_index == UNMAPPED

    def test_a_new_pod_has_neither_containers_nor_a_deletion_deadline(self) -> None:
        pod = parse_pod(make_item(status={"phase": "Pending"}))
        assert (pod.phase, pod.containers, pod.deletion_deadline) == ("Pending", (), None)

    def test_a_pod_without_a_phase_has_the_phase_unknown(self) -> None:
        assert parse_pod(make_item(status={})).phase == "Unknown"


class TestItemsThatAreNotPods:
    @pytest.mark.parametrize("field", ["name", "namespace", "uid", "creationTimestamp"])
    @pytest.mark.parametrize("value", [None, ""], ids=repr)
    def test_an_item_without_a_required_field_is_rejected(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match="an item lacks namespace, name, uid or creationTimestamp"):
            from_metadata(**{field: value})

    @pytest.mark.parametrize(
        "value",
        ["yesterday", "2026-11-24", "2026-11-24T12:00:00+00:00", "2026-13-24T12:00:00Z", 5, NOW, [], "NaN"],
    )
    def test_an_item_with_a_malformed_creation_time_is_rejected(self, value: Any) -> None:
        with pytest.raises(ValueError, match="creationTimestamp"):
            from_metadata(creationTimestamp=value)

    @pytest.mark.parametrize("metadata", [None, [], "pod", 5], ids=repr)
    def test_an_item_whose_metadata_is_not_an_object_is_rejected(self, metadata: Any) -> None:
        with pytest.raises(ValueError, match="an item lacks"):
            parse_pod({**make_item(), "metadata": metadata})


class TestLabelProblems:
    @pytest.mark.parametrize("name", ["dag_id", "task_id", "run_id", "try_number"])
    @pytest.mark.parametrize("value", [None, ""], ids=["missing", "empty"])
    def test_a_pod_without_an_identifying_label_has_a_label_problem(self, name: str, value: Any) -> None:
        assert from_labels(**{name: value}).label_problem == f"label {name} is missing"

    @pytest.mark.parametrize("value", [None, "", "true", "False", "1"], ids=repr)
    def test_a_pod_has_a_label_problem_if_the_operators_own_label_has_another_value(self, value: Any) -> None:
        pod = from_labels(kubernetes_pod_operator=value)
        assert pod.label_problem == f"label kubernetes_pod_operator is {value!r}, not 'True'"

    @pytest.mark.parametrize("name", ["try_number", "map_index"])
    @pytest.mark.parametrize(
        "value",
        [
            "one",
            "1.0",
            "01",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "٣",
            "²",
            "\uff11",
            "1e3",
            "9" * 11,
            "9" * 63,
            "2147483648",
        ],
    )
    def test_a_pod_has_a_label_problem_if_a_number_is_not_as_airflow_writes_it(self, name: str, value: str) -> None:
        assert (
            from_labels(**{name: value}).label_problem == f"label {name}={value!r} is not a number that Airflow writes"
        )

    def test_a_pod_has_a_label_problem_if_its_map_index_is_empty(self) -> None:
        assert from_labels(map_index="").label_problem == "label map_index='' is not a number that Airflow writes"

    @pytest.mark.parametrize("value", ["0", "1", "10", "2147483647"])
    def test_a_number_that_airflow_writes_is_not_a_label_problem(self, value: str) -> None:
        pod = from_labels(try_number=value, map_index=value)
        assert (pod.label_problem, pod.try_number, pod.map_index) == ("", int(value), int(value))

    @pytest.mark.parametrize("labels", ["dag_id=orders", 5, ["dag_id"], True])
    def test_a_pod_whose_labels_are_not_an_object_has_a_label_problem(self, labels: Any) -> None:
        assert parse_pod(make_item(labels=labels)).label_problem

    def test_a_pod_without_labels_has_a_label_problem(self) -> None:
        item = make_item()
        del item["metadata"]["labels"]
        assert parse_pod(item).label_problem

    def test_a_pod_has_no_label_problem_with_labels_of_the_maximum_length(self) -> None:
        longest = "a" * 63
        pod = from_labels(dag_id=longest, task_id=longest, run_id=longest)
        assert (pod.label_problem, pod.key) == ("", TaskInstanceKey(longest, longest, longest))


class TestProtection:
    @pytest.mark.parametrize(
        "value", ["true", "True", "TRUE", "yes", "1", "", " ", "keep until Friday", "falsch", "ja ✓"]
    )
    @pytest.mark.parametrize("place", ["labels", "annotations"])
    def test_a_pod_is_protected_by_any_value_other_than_false(self, place: str, value: str) -> None:
        item = make_item()
        item["metadata"][place][PROTECT_KEY] = value
        assert parse_pod(item).protected_by == f"{PROTECT_KEY}={value}"

    @pytest.mark.parametrize("value", ["false", "False", " FALSE ", None])
    @pytest.mark.parametrize("place", ["labels", "annotations"])
    def test_a_pod_is_not_protected_by_the_value_false_or_null(self, place: str, value: Any) -> None:
        item = make_item()
        item["metadata"][place][PROTECT_KEY] = value
        assert parse_pod(item).protected_by == ""

    def test_the_annotation_protects_a_pod_although_the_label_is_false(self) -> None:
        item = make_item(labels={PROTECT_KEY: "false"}, metadata={"annotations": {PROTECT_KEY: "true"}})
        assert parse_pod(item).protected_by

    @pytest.mark.parametrize(
        "annotations", [None, {}, [], "text", {"note": "grüße 日本 🎉"}, {"kpo-cleanup/protected": "true"}], ids=repr
    )
    def test_a_pod_is_not_protected_by_other_annotations(self, annotations: Any) -> None:
        assert from_metadata(annotations=annotations).protected_by == ""


JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "1", "controller": True}


class TestController:
    @pytest.mark.parametrize(
        ("owners", "expected"),
        [
            pytest.param(None, None, id="nobody"),
            pytest.param([], None, id="an empty list"),
            pytest.param([JOB], Owner("Job", "nightly", "1", "batch/v1"), id="a Job"),
            pytest.param(
                [{**JOB, "controller": "yes"}],
                Owner("Job", "nightly", "1", "batch/v1"),
                id="a Job whose controller field is not a boolean",
            ),
            pytest.param([{"kind": "ConfigMap", "name": "x"}], None, id="an owner that is not a controller"),
            pytest.param(
                [{"kind": "ConfigMap", "name": "x", "controller": False}], None, id="an owner with controller=False"
            ),
            pytest.param(
                [{"kind": "ConfigMap", "name": "x"}, {"kind": "SparkApplication", "name": "s", "controller": True}],
                Owner("SparkApplication", "s", "None", "None"),
                id="a controller among others",
            ),
            pytest.param(
                [None, "x", {"controller": True}],
                Owner("None", "None", "None", "None"),
                id="a controller without a name",
            ),
        ],
    )
    def test_the_controller_of_a_pod_is_parsed(self, owners: Any, expected: Owner | None) -> None:
        assert from_metadata(ownerReferences=owners).controller == expected


class TestAlreadyChecked:
    @pytest.mark.parametrize(("value", "checked"), [("True", True), ("true", False), ("False", False), (None, False)])
    def test_a_pod_is_already_checked_only_by_the_exact_label_that_find_pod_excludes(
        self, value: Any, checked: bool
    ) -> None:
        # Its selector is already_checked!=True.
        assert from_labels(already_checked=value).already_checked is checked


class TestContainers:
    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            pytest.param(
                {"terminated": {"exitCode": 137}},
                Container("base", "terminated", exit_code=137),
                id="a termination without a time",
            ),
            pytest.param({"terminated": {}}, Container("base", "terminated"), id="an empty termination"),
            pytest.param({"terminated": None}, Container("base", "terminated"), id="a termination that is null"),
            pytest.param({"running": {}}, Container("base", "running"), id="a start without a time"),
            pytest.param({"waiting": {}}, Container("base", "waiting"), id="a wait without a reason"),
            pytest.param({}, Container("base", "waiting"), id="no state, which means waiting"),
            pytest.param(None, Container("base", "waiting"), id="a state that is null"),
            pytest.param(
                {"terminated": {"exitCode": 0, "finishedAt": None}},
                Container("base", "terminated", exit_code=0),
                id="a termination whose time is null",
            ),
        ],
    )
    def test_the_state_of_a_container_is_parsed(self, state: Any, expected: Container) -> None:
        pod = parse_pod(make_item(status={"containerStatuses": [{"name": "base", "state": state}]}))
        assert pod.containers == (expected,)

    @pytest.mark.parametrize(
        ("last", "restarts", "last_end"),
        [
            pytest.param({"reason": "OOMKilled", "exitCode": 137}, 208, "OOMKilled", id="its last end has a reason"),
            pytest.param({"reason": "Error", "exitCode": 3}, 1, "exit code 3", id="its last end has an exit code"),
            pytest.param(None, 1, "", id="its last end is unknown"),
            pytest.param({"exitCode": "3"}, 1, "", id="its last exit code is not a number"),
        ],
    )
    def test_the_restarts_of_a_container_are_parsed(self, last: Any, restarts: int, last_end: str) -> None:
        crashing = {"name": "base", "restartCount": restarts, "lastState": {"terminated": last}}
        (container,) = parse_pod(make_item(status={"containerStatuses": [crashing]})).containers
        assert (container.restarts, container.last_end, container.has_run) == (restarts, last_end, True)

    @pytest.mark.parametrize("restarts", [0, -1, "many", None], ids=repr)
    def test_a_restart_count_that_is_not_a_positive_number_means_no_restarts(self, restarts: Any) -> None:
        waiting = {"name": "base", "restartCount": restarts, "lastState": {"terminated": {"exitCode": 3}}}
        (container,) = parse_pod(make_item(status={"containerStatuses": [waiting]})).containers
        assert (container.restarts, container.last_end, container.has_run) == (0, "", False)

    @pytest.mark.parametrize(
        ("reason", "expected"), [("OOMKilled", "OOMKilled"), ("Completed", ""), ("Error", ""), (None, "")]
    )
    def test_the_reason_why_a_container_ended_is_parsed_if_it_adds_to_the_exit_code(
        self, reason: str | None, expected: str
    ) -> None:
        ended = {"name": "base", "state": {"terminated": {"exitCode": 137, "reason": reason}}}
        (container,) = parse_pod(make_item(status={"containerStatuses": [ended]})).containers
        assert container.reason == expected


class TestRequests:
    @pytest.mark.parametrize(
        ("containers", "expected"),
        [
            pytest.param([], {}, id="no containers"),
            pytest.param([{}], {}, id="a container without requests"),
            pytest.param(
                [{"cpu": "250m", "memory": "512Mi"}], {"cpu": 0.25, "memory": 512 * 2**20}, id="one container"
            ),
            pytest.param(
                [{"cpu": "250m", "memory": "1Gi"}, {"memory": "64Mi"}],
                {"cpu": 0.25, "memory": 1088 * 2**20},
                id="two containers",
            ),
            pytest.param([{"cpu": "100u"}, {"memory": "1e9"}], {"cpu": 0.0001, "memory": 1e9}, id="odd units"),
            pytest.param([{"cpu": "1.5", "memory": "1048576"}], {"cpu": 1.5, "memory": 2**20}, id="plain numbers"),
            pytest.param([{"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": 1}], {"nvidia.com/gpu": 3}, id="GPUs"),
            pytest.param([{"cpu": "much", "memory": "1"}], {"memory": 1}, id="an invalid quantity"),
        ],
    )
    def test_the_requests_are_added_up_by_resource(
        self, containers: list[dict[str, Any]], expected: dict[str, float]
    ) -> None:
        spec = {"containers": [{"name": "base", "resources": {"requests": requests}} for requests in containers]}
        assert dict(parse_pod(make_item(spec=spec)).requests) == pytest.approx(expected)

    def test_requests_include_native_sidecars_and_overhead_and_those_of_the_pod_override_its_containers(self) -> None:
        def asking(name: str, **more: Any) -> dict[str, Any]:
            return {"name": name, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}, **more}

        containers = {
            "containers": [asking("base")],
            # setup does not count: it is not a native sidecar, and ends before base starts.
            "initContainers": [asking("proxy", restartPolicy="Always"), asking("setup")],
        }
        assert dict(parse_pod(make_item(spec=containers)).requests) == {"cpu": 2, "memory": 2 * 2**30}
        of_pod = {**containers, "resources": {"requests": {"cpu": "4"}}, "overhead": {"cpu": "250m"}}
        assert dict(parse_pod(make_item(spec=of_pod)).requests) == {"cpu": 4.25, "memory": 2 * 2**30}


class TestInitContainers:
    SPEC: ClassVar = {
        "containers": [{"name": "base"}],
        "initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "setup"}],
    }

    @staticmethod
    def read(state: dict[str, Any], name: str) -> tuple[Container, ...]:
        status = {"phase": "Pending", "initContainerStatuses": [{"name": name, "state": state}]}
        return parse_pod(make_item(spec=TestInitContainers.SPEC, status=status)).containers

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            pytest.param({"running": {}}, (Container("setup", "running", is_init=True),), id="while it runs"),
            pytest.param({"waiting": {}}, (Container("setup", "waiting", is_init=True),), id="while it waits"),
            pytest.param(
                {"terminated": {"exitCode": 1}},
                (Container("setup", "terminated", exit_code=1, is_init=True),),
                id="after it failed",
            ),
            pytest.param({"terminated": {"exitCode": 0}}, (), id="but not after it succeeded"),
        ],
    )
    def test_an_init_container_is_parsed(self, state: dict[str, Any], expected: tuple[Container, ...]) -> None:
        assert self.read(state, "setup") == expected

    @pytest.mark.parametrize("state", [{"running": {}}, {"waiting": {}}, {"terminated": {"exitCode": 0}}])
    def test_a_native_sidecar_is_a_container_like_others(self, state: dict[str, Any]) -> None:
        (container,) = self.read(state, "proxy")
        assert (container.name, container.is_init, container.is_native) == ("proxy", False, True)


class TestPhaseReason:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            pytest.param({"phase": "Failed", "reason": "Evicted"}, "Evicted", id="in the status"),
            pytest.param(
                {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
                "Unschedulable",
                id="in the condition of an unschedulable pod",
            ),
            pytest.param(
                {
                    "conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
                        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"},
                    ]
                },
                "PreemptionByScheduler",
                id="in the condition of a disrupted pod",
            ),
            pytest.param(
                {
                    "conditions": [
                        {"type": "PodScheduled", "status": "True", "reason": "Scheduled"},
                        {"type": "DisruptionTarget", "status": "False", "reason": "Scheduled"},
                        {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                    ]
                },
                "",
                id="nowhere, because the pod was scheduled and not disrupted",
            ),
            pytest.param({"reason": None, "conditions": None}, "", id="nowhere, because both are null"),
        ],
    )
    def test_the_reason_of_the_phase_is_found(self, status: dict[str, Any], expected: str) -> None:
        assert parse_pod(make_item(status=status)).phase_reason == expected

    @pytest.mark.parametrize("of_condition", [True, False], ids=["in the condition", "in the status"])
    def test_the_message_is_parsed_from_where_the_reason_is(self, of_condition: bool) -> None:
        why = {"reason": "Evicted", "message": "The node was low on resource: memory."}
        condition = {"type": "DisruptionTarget", "status": "True", **why}
        pod = parse_pod(make_item(status={"conditions": [condition]} if of_condition else why))
        assert pod.phase_message == "The node was low on resource: memory."


class TestJob:
    @pytest.mark.parametrize(
        ("labels", "job"),
        [
            pytest.param({"batch.kubernetes.io/job-name": "nightly"}, "nightly", id="the current label"),
            pytest.param({"job-name": "nightly", "controller-uid": "1"}, "nightly", id="both older labels"),
            pytest.param({"job-name": "nightly"}, "", id="not by a label that anybody may use"),
            pytest.param({"controller-uid": "1"}, "", id="not by the label of the owner alone"),
        ],
    )
    def test_the_job_of_a_pod_is_identified_by_labels_that_only_its_controller_sets(
        self, labels: dict[str, str], job: str
    ) -> None:
        owner = parse_pod(make_item(labels=labels)).links.labelled_owner
        assert (owner.name if owner else "") == job


def test_a_workload_has_few_enough_attributes_for_python_to_store_their_names_only_once() -> None:
    assert len(vars(make_pod())) <= 29


class TestLabels:
    def test_labels_are_those_that_the_author_added_and_not_those_that_identify_the_task_instance_or_try(self) -> None:
        assert from_labels(team="sales", sha="a1", already_checked="True", map_index="3").labels == (
            ("sha", "a1"),
            ("team", "sales"),
        )

    def test_the_label_parent_dag_id_is_kept_because_find_pod_searches_by_it(self) -> None:
        assert from_labels(parent_dag_id="nightly").labels == (("parent_dag_id", "nightly"),)

    def test_a_pod_that_also_has_the_label_of_the_spark_kubernetes_operator_has_a_label_problem(self) -> None:
        problem = from_labels(spark_kubernetes_operator="True").label_problem
        assert problem.endswith("it is a pod of the SparkKubernetesOperator as well")


class TestGracePeriod:
    @pytest.mark.parametrize(("spec", "seconds"), [(86_400, 86_400), (0, 0), (None, 30), ("soon", 30), (True, 30)])
    def test_the_grace_period_is_that_of_the_spec_or_the_default(self, spec: Any, seconds: int) -> None:
        assert parse_pod(make_item(spec={"terminationGracePeriodSeconds": spec})).grace_period == seconds


class TestMainContainer:
    @pytest.mark.parametrize(
        ("names", "annotated", "expected"),
        [
            pytest.param(["sidecar", "base"], None, "base", id="base, at any position"),
            pytest.param(["sidecar", "base"], "sidecar", "base", id="base, whatever kubectl shows by default"),
            pytest.param(["worker"], None, "worker", id="the only one if none is called base"),
            pytest.param(["worker", "airflow-xcom-sidecar"], None, "worker", id="the only one beside the XCom sidecar"),
            pytest.param(["linkerd-proxy", "train"], "train", "train", id="the one that kubectl shows by default"),
            pytest.param(["linkerd-proxy", "train"], None, "", id="unknown if several containers may be it"),
            pytest.param(["linkerd-proxy", "train"], "gone", "", id="unknown if the annotation names no container"),
            pytest.param([], None, "base", id="base if the spec has no containers"),
        ],
    )
    def test_the_main_container_is_identified(self, names: list[str], annotated: str | None, expected: str) -> None:
        annotations = {"kubectl.kubernetes.io/default-container": annotated} if annotated else {}
        item = make_item(spec={"containers": [{"name": name} for name in names]}, metadata={"annotations": annotations})
        assert parse_pod(item).main_container == expected


class TestClusterLabels:
    @pytest.mark.parametrize(
        "label",
        [
            "topology.kubernetes.io/zone",
            "topology.kubernetes.io/region",
            "service.istio.io/canonical-name",
            "service.istio.io/canonical-revision",
            "security.istio.io/tlsMode",
            "linkerd.io/control-plane-ns",
        ],
    )
    def test_a_label_that_the_cluster_or_a_mesh_writes_does_not_tell_two_pods_apart(self, label: str) -> None:
        stamped, plain = parse_pod(make_item(labels={label: "a"})), parse_pod(make_item())
        assert stamped.adoption_key == plain.adoption_key
        assert parse_pod(make_item(labels={"step": "a"})).adoption_key != plain.adoption_key


class TestFinishedAt:
    ENDED: ClassVar = {"name": "base", "state": {"terminated": {"finishedAt": timestamp(NOW - DAY)}}}
    WITHOUT_TIME: ClassVar = {
        "name": "base",
        "state": {"terminated": {"reason": "ContainerStatusUnknown", "finishedAt": None}},
    }

    @staticmethod
    def condition(kind: str, changed: int) -> dict[str, str]:
        return {"type": kind, "status": "False", "lastTransitionTime": timestamp(changed)}

    @pytest.mark.parametrize(
        ("containers", "conditions", "expected"),
        [
            pytest.param([ENDED], {}, NOW - DAY, id="the end of its container"),
            pytest.param([], {"DisruptionTarget": NOW - 600}, NOW - 600, id="its eviction if it has no containers"),
            pytest.param(
                [WITHOUT_TIME],
                {"Ready": NOW - 900, "ContainersReady": NOW - 900, "PodScheduled": NOW},
                NOW - 900,
                id="its last change of readiness if its container has no end time",
            ),
            pytest.param([ENDED], {"DisruptionTarget": NOW - 600}, NOW - 600, id="the later of the two"),
            pytest.param([WITHOUT_TIME], {"PodScheduled": NOW - 60}, None, id="unknown if neither shows it"),
        ],
    )
    def test_a_completed_pod_finished_at_the_latest_time_that_its_status_shows(
        self, containers: list[Any], conditions: dict[str, int], expected: int | None
    ) -> None:
        status = {
            "phase": "Failed",
            "containerStatuses": containers,
            "conditions": [self.condition(kind, changed) for kind, changed in conditions.items()],
        }
        assert parse_pod(make_item(status=status)).finished_at == expected

    def test_a_pod_that_has_not_completed_has_not_finished(self) -> None:
        assert (
            make_pod(phase="Running", containers=(Container("base", "terminated", None, NOW, 0),)).finished_at is None
        )


@pytest.mark.parametrize(
    ("phase", "completed"), [("Succeeded", True), ("Failed", True), ("Running", False), ("", False)]
)
def test_a_pod_is_completed_only_in_a_terminal_phase(phase: str, completed: bool) -> None:
    assert make_pod(phase=phase).is_completed is completed


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def with_junk(value: Any, random: Any, junk: list[Any]) -> Any:
    """Return the JSON with some of its parts replaced by junk and some keys removed."""
    if random.random() < 0.06:
        return random.choice(junk)
    if isinstance(value, dict):
        return {name: with_junk(inner, random, junk) for name, inner in value.items() if random.random() > 0.03}
    if isinstance(value, list):
        return [with_junk(inner, random, junk) for inner in value]
    return value


def parsed(page: Any) -> Any:
    """Return the kind, the continue token and the items of a page, each item parsed into a pod or an error."""

    def parse(item: Any) -> Any:
        try:
            return parse_pod(item)
        except (ValueError, TypeError, AttributeError) as error:
            return type(error), str(error)

    if not isinstance(page, dict):
        return page
    items, metadata = page.get("items"), page.get("metadata")
    token = metadata.get("continue") if isinstance(metadata, dict) else metadata
    return page.get("kind"), token, [parse(item) for item in items] if isinstance(items, list) else items


class TestDecodingAPage:
    PAGE = {  # noqa: RUF012
        "kind": "PodList",
        "metadata": {"continue": "next", "remainingItemCount": 7},
        "items": [REALISTIC, make_item(), make_item(metadata={"annotations": {PROTECT_KEY: "true"}})],
    }

    @pytest.mark.usefixtures("decoder")
    def test_every_field_that_is_parsed_is_decoded(self) -> None:
        assert parsed(make_decoder()(json.dumps(self.PAGE).encode())) == parsed(self.PAGE)

    def test_fields_that_are_not_needed_are_skipped(self) -> None:
        pytest.importorskip("msgspec")
        item = make_item(metadata={"managedFields": [{"fieldsV1": {"f:metadata": {}}}]})
        item["spec"]["containers"][0]["imagePullPolicy"] = "Always"
        text = json.dumps(make_decoder()(json.dumps({"kind": "PodList", "items": [item]}).encode()))
        assert [word for word in ("managedFields", "imagePullPolicy", "restartPolicy", "ready") if word in text] == []

    @given(st.lists(JSON, min_size=1, max_size=5), st.randoms(use_true_random=False))
    def test_a_page_with_absurd_parts_is_parsed_as_if_everything_was_decoded(
        self, junk: list[Any], random: Any
    ) -> None:
        body = json.dumps(with_junk(self.PAGE, random, junk)).encode()
        assert parsed(make_decoder()(body)) == parsed(json.loads(body))

    @pytest.mark.usefixtures("decoder")
    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b'{"kind": "PodList", "items": [', b'{"items": []} x', b'{"items": ["\xff"]}'],
        ids=["nothing", "HTML", "half of the JSON", "more than JSON", "invalid UTF-8"],
    )
    def test_a_body_that_is_not_json_is_an_error(self, body: bytes) -> None:
        def error_of(decode: Callable[[bytes], Any]) -> str:
            try:
                return f"no error, but {decode(body)}"
            except ValueError as error:
                return str(error)

        assert error_of(make_decoder()) == error_of(json.loads)


class TestAnyJson:
    @given(JSON)
    def test_any_json_is_parsed_or_rejected(self, item: Any) -> None:
        # The client converts these three to a KubernetesError.
        with suppress(ValueError, TypeError, AttributeError):
            assert isinstance(parse_pod(item), Workload)

    @given(st.lists(JSON, min_size=1, max_size=5), st.randoms(use_true_random=False))
    def test_a_pod_with_absurd_parts_is_parsed_or_rejected(self, junk: list[Any], random: Any) -> None:
        item = with_junk(REALISTIC, random, junk)
        with suppress(ValueError, TypeError, AttributeError):
            pod = parse_pod(item)
            assert all(isinstance(text, str) for text in (pod.namespace, pod.name, pod.uid, *pod.key[:3]))
            assert pod.label_problem or all(pod.key[:3])

    @given(st.dictionaries(st.sampled_from(sorted(REALISTIC["metadata"]["labels"])), SCALARS))
    def test_absurd_labels_cause_at_most_a_label_problem_and_never_an_error(self, labels: dict[str, Any]) -> None:
        pod = from_labels(**labels)
        assert pod.label_problem or (pod.dag_id and pod.task_id and pod.run_id)


def test_a_workload_takes_less_than_a_kilobyte_of_memory() -> None:
    """Python stores the attribute names of each object separately if there are too many of them."""
    tracemalloc.start()
    try:
        workloads = [make_pod() for _ in range(1_000)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(workloads) < 1_000
