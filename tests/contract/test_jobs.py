"""Jobs without controllers: how the API server completes, validates and deletes them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.namespace import MERGE, Json, Namespace, container, job

ORPHANED, FOREGROUND = ["orphan"], ["foregroundDeletion"]


def test_a_created_job_gets_defaults_and_a_selector(namespace: Namespace) -> None:
    created = namespace.call("POST", namespace.jobs, job("j", labels={"dag_id": "d"}))
    uid = created["metadata"]["uid"]
    spec = created["spec"]
    template = spec.pop("template")
    assert (created["kind"], created["apiVersion"], created["status"]) == ("Job", "batch/v1", {})
    assert created["metadata"]["generation"] == 1
    assert spec == {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 6,
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
        "manualSelector": False,
        "completionMode": "NonIndexed",
        "suspend": False,
        "podReplacementPolicy": "TerminatingOrFailed",
    }
    assert template["metadata"]["labels"] == {
        "dag_id": "d",
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }


def test_a_job_without_labels_gets_those_of_its_template(namespace: Namespace) -> None:
    body = job("j", labels={"dag_id": "d"})
    created = namespace.call("POST", namespace.jobs, body)
    assert created["metadata"]["labels"] == created["spec"]["template"]["metadata"]["labels"]
    body["metadata"] = {"name": "k", "labels": {"own": "yes"}}
    assert namespace.call("POST", namespace.jobs, body)["metadata"]["labels"] == {"own": "yes"}


def test_a_job_with_a_parallelism_and_no_completions_keeps_them_unset(namespace: Namespace) -> None:
    created = namespace.call("POST", namespace.jobs, job("j", parallelism=3))
    assert created["spec"]["parallelism"] == 3
    assert "completions" not in created["spec"]


@pytest.mark.parametrize(
    ("spec", "causes"),
    [
        pytest.param(
            {"template": {}},
            {
                "spec.template.spec.containers": "Required value",
                "spec.template.spec.restartPolicy": 'Required value: valid values: "OnFailure", "Never"',
            },
            id="an empty template",
        ),
        pytest.param(
            {"template": {"spec": {"restartPolicy": "Always", "containers": [container("c")]}}},
            {"spec.template.spec.restartPolicy": 'Required value: valid values: "OnFailure", "Never"'},
            id="the restart policy of pods",
        ),
        pytest.param(
            {"parallelism": -1, "completions": -1, "backoffLimit": -1},
            {
                f"spec.{field}": "Invalid value: -1: must be greater than or equal to 0"
                for field in ("parallelism", "completions", "backoffLimit")
            },
            id="negative numbers",
        ),
    ],
)
def test_an_invalid_job_is_refused_with_all_causes(namespace: Namespace, spec: Json, causes: Json) -> None:
    body = job("j")
    body["spec"] |= spec
    error = namespace.request_error("POST", namespace.jobs, body)
    assert (error["reason"], error["code"]) == ("Invalid", 422)
    assert error["message"].startswith('Job.batch "j" is invalid: ')
    found = {cause["field"]: cause["message"] for cause in error["details"].pop("causes")}
    assert error["details"] == {"name": "j", "group": "batch", "kind": "Job"}
    assert found == causes


def test_errors_about_a_job_name_its_group(namespace: Namespace) -> None:
    common = {"metadata": {}, "details": {"name": "j", "group": "batch", "kind": "jobs"}}
    missing = {**common, "message": 'jobs.batch "j" not found', "reason": "NotFound", "code": 404}
    assert namespace.request_error("GET", f"{namespace.jobs}/j") == missing
    namespace.call("POST", namespace.jobs, job("j"))
    taken = {**common, "message": 'jobs.batch "j" already exists', "reason": "AlreadyExists", "code": 409}
    assert namespace.request_error("POST", namespace.jobs, job("j")) == taken


@pytest.mark.parametrize("spec", [{"parallelism": 3}, {"suspend": True}, {"backoffLimit": 0}], ids=str)
def test_a_change_to_the_spec_increments_the_generation(namespace: Namespace, spec: Json) -> None:
    namespace.call("POST", namespace.jobs, job("j"))
    after = namespace.call("PATCH", f"{namespace.jobs}/j", {"spec": spec}, MERGE)
    assert after["metadata"]["generation"] == 2
    assert after["spec"] == {**after["spec"], **spec}


@pytest.mark.parametrize(
    "spec", [{"completions": 3}, {"template": {"metadata": {"labels": {"a": "b"}}}}], ids=["completions", "template"]
)
def test_an_immutable_field_cannot_be_changed(namespace: Namespace, spec: Json) -> None:
    namespace.call("POST", namespace.jobs, job("j"))
    error = namespace.request_error("PATCH", f"{namespace.jobs}/j", {"spec": spec}, MERGE)
    assert (error["reason"], error["code"]) == ("Invalid", 422)
    (cause,) = error["details"]["causes"]
    assert cause["field"] == f"spec.{next(iter(spec))}"
    assert cause["message"].endswith(": field is immutable")


@pytest.mark.parametrize(
    ("body", "query", "finalizers"),
    [
        pytest.param(None, {}, ORPHANED, id="without options it orphans"),
        pytest.param({"gracePeriodSeconds": 0}, {}, ORPHANED, id="without a policy it orphans"),
        pytest.param({"propagationPolicy": "Orphan"}, {}, ORPHANED, id="the policy is Orphan"),
        pytest.param({"propagationPolicy": "Foreground"}, {}, FOREGROUND, id="the policy is Foreground"),
        pytest.param(None, {"propagationPolicy": "Foreground"}, FOREGROUND, id="the policy is in the query"),
    ],
)
def test_a_deleted_job_waits_for_the_garbage_collector(
    namespace: Namespace, body: Json | None, query: dict[str, Any], finalizers: list[str]
) -> None:
    namespace.call("POST", namespace.jobs, job("j"))
    deleted = namespace.call("DELETE", f"{namespace.jobs}/j", body, **query)
    assert deleted["kind"] == "Job"
    assert deleted["metadata"]["finalizers"] == finalizers
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 0
    assert deleted["metadata"]["generation"] == 2
    assert namespace.find(f"{namespace.jobs}/j") == deleted
    again = namespace.call("DELETE", f"{namespace.jobs}/j")
    assert again == deleted


def test_a_background_delete_removes_the_job_immediately(namespace: Namespace) -> None:
    uid = namespace.call("POST", namespace.jobs, job("j"))["metadata"]["uid"]
    status = namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Background"})
    assert status["status"] == "Success"
    assert status["details"] == {"name": "j", "group": "batch", "kind": "jobs", "uid": uid}
    assert not namespace.find(f"{namespace.jobs}/j")


def test_a_later_delete_can_change_the_propagation_policy(namespace: Namespace) -> None:
    namespace.call("POST", namespace.jobs, job("j"))
    namespace.call("DELETE", f"{namespace.jobs}/j")
    deleted = namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
    assert deleted["metadata"]["finalizers"] == FOREGROUND
    namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Background"})
    assert not namespace.find(f"{namespace.jobs}/j")


@pytest.mark.parametrize("precondition", ["uid", "resourceVersion"])
def test_a_delete_whose_preconditions_do_not_hold_is_refused(namespace: Namespace, precondition: str) -> None:
    metadata = namespace.call("POST", namespace.jobs, job("j"))["metadata"]
    options = {"propagationPolicy": "Background", "preconditions": {precondition: "1"}}
    error = namespace.request_error("DELETE", f"{namespace.jobs}/j", options)
    assert (error["reason"], error["code"]) == ("Conflict", 409)
    assert error["message"].startswith('Operation cannot be fulfilled on Job.batch "j": the ')
    assert error["details"] == {"name": "j", "group": "batch", "kind": "Job"}
    options["preconditions"] = {precondition: metadata[precondition]}
    namespace.call("DELETE", f"{namespace.jobs}/j", options)
    assert not namespace.find(f"{namespace.jobs}/j")
