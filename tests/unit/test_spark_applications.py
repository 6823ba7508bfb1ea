"""SparkApplications: how they are parsed and classified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from include.kpo_cleanup.evidence import phrases, warning_of
from include.kpo_cleanup.task_instance import Record, TaskInstance
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.pod import parse_pod
from include.kpo_cleanup.workloads.registry import KINDS
from include.kpo_cleanup.workloads.workload import Container, Links, Owner, Workload
from tests.unit.builders import (
    FINISHED,
    HOUR,
    MINUTE,
    NO_TI,
    NOW,
    classify_pod,
    make_item,
    make_pod,
    make_ti,
    timestamp,
)

SPARK = KINDS["SparkApplication"]
RUNNING = make_ti(state="running", ended=None)
IN_TRY_2 = make_ti(state="running", try_number=2, ended=None)
SUCCEEDED = make_ti(state="success")
LABELS = {"kubernetes_pod_operator": None, "spark_kubernetes_operator": "True"}
DRIVER = Container("spark-kubernetes-driver", "running")


def make_application(name: str = "app-1", **overrides: Any) -> Workload:
    """Return a running application, two hours old."""
    links = Links(recorded_as=f"airflow/{name}-driver")
    return make_pod(**{"kind": "SparkApplication", "name": name, "links": links, "containers": (DRIVER,), **overrides})


def item(state: str = "RUNNING", metadata: Mapping[str, Any] | None = None, **driver: Any) -> dict[str, Any]:
    """Return an application as the API server returns it."""
    pod = make_item(labels=LABELS, metadata={"name": "app-1"})["metadata"]
    status: dict[str, Any] = {"applicationState": {"state": state, "errorMessage": "why"}, "terminationTime": None}
    if state in ("COMPLETED", "FAILED"):
        status["terminationTime"] = timestamp(NOW - HOUR)
    own = {name: value for name, value in pod.items() if name not in ("labels", "annotations")}
    return {
        "kind": "SparkApplication",
        "metadata": {**own, **(metadata or {})},
        "spec": {"driver": {"labels": pod["labels"], **driver}},
        "status": status if state else {},
    }


def driver_pod(**overrides: Any) -> Workload:
    return make_pod(**{"name": "app-1-driver", "containers": (DRIVER,), **overrides})


class TestParsing:
    def test_an_application_has_the_labels_the_containers_and_the_node_of_its_driver(self) -> None:
        driver = driver_pod(requests=(("cpu", 1.0),), node="worker-1")
        app = SPARK.parse(item(), [driver])
        assert (str(app), app.key, app.try_number) == ("SparkApplication airflow/app-1", make_pod().key, 1)
        assert (app.phase, app.label_problem, app.resource_version) == ("Running", "", "4711")
        assert (app.containers, app.node, dict(app.requests)) == ((DRIVER,), "worker-1", {"cpu": 1.0})
        assert app.record_name == "airflow/app-1-driver"
        assert app.controller is None

    @pytest.mark.parametrize(("state", "phase"), [("COMPLETED", "Succeeded"), ("FAILED", "Failed")])
    def test_a_finished_application_has_the_phase_the_message_and_the_time_of_its_end(
        self, state: str, phase: str
    ) -> None:
        app = SPARK.parse(item(state), [driver_pod(phase=phase)])
        assert (app.phase, app.is_completed, app.phase_message) == (phase, True, "why")
        assert app.finished_at == NOW - HOUR

    @pytest.mark.parametrize("state", ["", "SUBMITTED", "RUNNING", "FAILING", "PENDING_RERUN", "SUCCEEDING", "UNKNOWN"])
    @pytest.mark.parametrize("phase", ["Running", "Failed", "Succeeded"])
    def test_an_application_in_any_other_state_has_not_finished(self, state: str, phase: str) -> None:
        app = SPARK.parse(item(state), [driver_pod(phase=phase)])
        assert not app.is_completed
        assert app.phase == ("Running" if phase == "Running" else "Unknown")

    @pytest.mark.parametrize("phase", ["Running", "Failed"])
    def test_a_retry_adopts_a_driver_only_if_it_has_not_failed(self, phase: str) -> None:
        assert SPARK.is_adoptable(SPARK.parse(item(), [driver_pod(phase=phase)])) is (phase == "Running")

    def test_a_driver_that_is_being_deleted_is_not_adopted(self) -> None:
        app = SPARK.parse(item(), [driver_pod(deletion_deadline=NOW)])
        assert (app.phase, app.phase_reason) == ("Unknown", "the driver is being deleted")
        assert not SPARK.is_adoptable(app)

    def test_a_checked_driver_is_not_adopted(self) -> None:
        app = SPARK.parse(item(), [driver_pod(already_checked=True)])
        assert app.already_checked
        assert not SPARK.is_adoptable(app)

    def test_the_controller_of_an_application_is_read_from_its_metadata(self) -> None:
        owner = {"kind": "ScheduledSparkApplication", "name": "s", "uid": "1", "controller": True}
        app = SPARK.parse(item(metadata={"ownerReferences": [owner]}), [driver_pod()])
        assert app.controller is not None
        assert app.controller.kind == "ScheduledSparkApplication"

    @pytest.mark.parametrize(
        "app",
        [
            item(metadata={"annotations": {"kpo-cleanup/protect": "true"}}),
            item(annotations={"kpo-cleanup/protect": "true"}),
        ],
        ids=["the application", "the driver"],
    )
    def test_an_application_is_protected_by_an_annotation_of(self, app: dict[str, Any]) -> None:
        assert SPARK.parse(app, [driver_pod()]).protected_by == "kpo-cleanup/protect=true"

    def test_the_main_container_of_a_driver_with_a_sidecar_is_that_of_spark(self) -> None:
        names = ({"name": "proxy"}, {"name": "spark-kubernetes-driver", "image": "spark:3.5"})
        driver = parse_pod(make_item(labels=LABELS, spec={"containers": [*names]}), SPARK.marker)
        assert (driver.main_container, driver.image) == ("spark-kubernetes-driver", "spark:3.5")
        assert driver.label_problem == ""


def reason_of(verdict: Verdict) -> str:
    return f"zombie {verdict.reason.value}" if verdict.is_zombie else verdict.reason.value


ITS_OWN = Record(frozenset({"airflow/app-1-driver"}))
ANOTHER = Record(frozenset({"airflow/app-2-driver"}))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("ti", "app", "record", "expected"),
        [
            pytest.param(RUNNING, {}, None, "active", id="its task is running"),
            pytest.param(IN_TRY_2, {}, None, "active", id="a later try may have adopted it"),
            pytest.param(FINISHED, {}, None, "zombie orphaned", id="its task failed"),
            pytest.param(FINISHED, {}, ITS_OWN, "zombie orphaned", id="its task failed and the record names it"),
            pytest.param(FINISHED, {}, ANOTHER, "unmatched", id="the record names another application"),
            pytest.param(FINISHED, {"phase": "Unknown"}, None, "zombie orphaned", id="its driver is about to restart"),
            pytest.param(SUCCEEDED, {}, None, "detached", id="its task succeeded"),
            pytest.param(make_ti(ended=NOW - 1), {}, None, "settling", id="its task has just failed"),
            pytest.param(FINISHED, {"created": NOW - MINUTE}, None, "unmatched", id="it was created too late"),
            pytest.param(NO_TI, {}, None, "unmatched", id="there is no task instance"),
            pytest.param(FINISHED, {"phase": "Failed"}, None, "completed", id="it has failed"),
            pytest.param(SUCCEEDED, {"phase": "Succeeded"}, None, "completed", id="it has completed"),
            pytest.param(FINISHED, {"controller": Owner("S", "s", "1", "")}, None, "owned", id="it is owned"),
        ],
    )
    def test_an_application_has_the_expected_verdict_if(
        self, ti: TaskInstance | None, app: dict[str, Any], record: Record | None, expected: str
    ) -> None:
        assert reason_of(classify_pod(make_application(**app), ti, record=record)) == expected

    @pytest.mark.parametrize(("ttl", "is_zombie"), [(None, False), (2 * HOUR, False), (HOUR - 1, True)])
    def test_only_the_ttl_decides_about_a_finished_application(self, ttl: int | None, is_zombie: bool) -> None:
        app = make_application(phase="Failed")
        verdict = classify_pod(app, delete_pods_on_failure=True, ttl_seconds_after_finished=ttl)
        assert verdict.is_zombie is is_zombie

    def test_an_application_that_outlives_the_success_of_its_task_causes_a_warning(self) -> None:
        verdict = classify_pod(make_application(), SUCCEEDED)
        assert phrases(verdict)[0] == "not finished, although its task succeeded 60 min ago"
        assert warning_of(verdict) is not None

    @pytest.mark.parametrize(
        ("newer", "record", "expected"),
        [
            pytest.param({}, ANOTHER, "zombie superseded", id="has adopted another driver"),
            pytest.param({}, ITS_OWN, "active", id="has adopted this one"),
            pytest.param({}, Record(), "active", id="has recorded none"),
            pytest.param({"phase": "Unknown"}, ANOTHER, "active", id="has recorded one that has failed"),
            pytest.param({"already_checked": True}, ANOTHER, "active", id="has finished with the one that it recorded"),
        ],
    )
    def test_an_older_application_has_the_expected_verdict_if_its_task(
        self, newer: dict[str, Any], record: Record, expected: str
    ) -> None:
        other = make_application("app-2", try_number=2, **newer)
        assert reason_of(classify_pod(make_application(), IN_TRY_2, other, record=record)) == expected
