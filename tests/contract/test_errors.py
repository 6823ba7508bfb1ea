"""POST of pods and bindings, and the Status errors of the API."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, cast

import pytest
from aiohttp import web
from kubernetes import client, config

from include.kpo_cleanup.errors import AdmissionDenied
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.workloads.labels import KPO_LABEL
from tests.contract.namespace import MERGE, Json, Namespace, container, pod
from tests.control_plane import ControlPlane
from tests.proxy import Fault, forbidden

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def test_a_created_pod_gets_system_metadata_and_defaults(namespace: Namespace) -> None:
    created = namespace.create_pod("p", status={"phase": "Running"})
    assert created["kind"] == "Pod"
    assert {"uid", "resourceVersion", "creationTimestamp"} <= created["metadata"].keys()
    assert created["metadata"]["generation"] == 1
    assert created["metadata"]["namespace"] == namespace.name
    assert created["status"]["phase"] == "Pending"
    assert created["spec"]["terminationGracePeriodSeconds"] == 30
    unset = namespace.call(
        "POST", namespace.pods, {"metadata": {"name": "q"}, "spec": {"containers": [container("c")]}}
    )
    assert unset["spec"]["restartPolicy"] == "Always"


def test_a_generated_name_is_truncated_to_63_characters(namespace: Namespace) -> None:
    name = namespace.call("POST", namespace.pods, pod("", metadata={"name": "", "generateName": "x" * 70}))["metadata"][
        "name"
    ]
    assert name.startswith("x" * 58)
    assert len(name) == 63


def test_every_verb_on_a_missing_pod_is_not_found(namespace: Namespace) -> None:
    not_found = {
        "metadata": {},
        "message": 'pods "p" not found',
        "reason": "NotFound",
        "details": {"name": "p", "kind": "pods"},
        "code": 404,
    }
    assert namespace.request_error("GET", f"{namespace.pods}/p") == not_found
    assert namespace.request_error("DELETE", f"{namespace.pods}/p") == not_found
    assert (
        namespace.request_error("PATCH", f"{namespace.pods}/p", {"metadata": {"labels": {"a": "b"}}}, MERGE)
        == not_found
    )


def test_a_pod_cannot_be_created_in_a_missing_namespace(namespace: Namespace) -> None:
    not_found = {
        "metadata": {},
        "message": 'namespaces "nope" not found',
        "reason": "NotFound",
        "details": {"name": "nope", "kind": "namespaces"},
        "code": 404,
    }
    assert namespace.request_error("POST", "/api/v1/namespaces/nope/pods", pod("p")) == not_found
    assert namespace.request_error("GET", "/api/v1/namespaces/nope") == not_found


def test_a_second_pod_of_the_same_name_is_refused(namespace: Namespace) -> None:
    namespace.create_pod("p")
    assert namespace.request_error("POST", namespace.pods, pod("p")) == {
        "metadata": {},
        "message": 'pods "p" already exists',
        "reason": "AlreadyExists",
        "details": {"name": "p", "kind": "pods"},
        "code": 409,
    }


@pytest.mark.parametrize(
    ("body", "name", "cause"),
    [
        pytest.param(
            pod("Bad_Name"),
            "Bad_Name",
            {
                "reason": "FieldValueInvalid",
                "field": "metadata.name",
                "message": (
                    """Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of lower case """
                    """alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character """
                    f"""(e.g. 'example.com', regex used for validation is '{DNS_LABEL}(\\.{DNS_LABEL})*')"""
                ),
            },
            id="an invalid name",
        ),
        pytest.param(
            pod(""),
            "",
            {
                "reason": "FieldValueRequired",
                "field": "metadata.name",
                "message": "Required value: name or generateName is required",
            },
            id="a missing name",
        ),
        pytest.param(
            pod("p", labels={"a": "b c"}),
            "p",
            {
                "reason": "FieldValueInvalid",
                "field": "metadata.labels",
                "message": (
                    """Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric """
                    """characters, '-', '_' or '.', and must start and end with an alphanumeric character """
                    """(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is """
                    """'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"""
                ),
            },
            id="an invalid label value",
        ),
        pytest.param(
            pod("p", labels={"a": "x" * 64}),
            "p",
            {
                "reason": "FieldValueInvalid",
                "field": "metadata.labels",
                "message": f'Invalid value: "{"x" * 64}": must be no more than 63 bytes',
            },
            id="a label value that is too long",
        ),
        pytest.param(
            pod("p", labels={"a b": "x"}),
            "p",
            {
                "reason": "FieldValueInvalid",
                "field": "metadata.labels",
                "message": (
                    """Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and """
                    """must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or """
                    """'123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"""
                ),
            },
            id="an invalid label key",
        ),
        pytest.param(
            {"metadata": {"name": "p"}},
            "p",
            {"reason": "FieldValueRequired", "field": "spec.containers", "message": "Required value"},
            id="missing containers",
        ),
        pytest.param(
            pod("p", restartPolicy="Maybe"),
            "p",
            {
                "reason": "FieldValueNotSupported",
                "field": "spec.restartPolicy",
                "message": 'Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"',
            },
            id="an invalid restart policy",
        ),
    ],
)
def test_an_invalid_pod_is_refused_with_the_field_and_the_cause(
    namespace: Namespace, body: Json, name: str, cause: Json
) -> None:
    assert namespace.request_error("POST", namespace.pods, body) == {
        "metadata": {},
        "message": f'Pod "{name}" is invalid: {cause["field"]}: {cause["message"]}',
        "reason": "Invalid",
        "details": {"kind": "Pod", "causes": [cause], **({"name": name} if name else {})},
        "code": 422,
    }


def test_an_invalid_pod_is_refused_with_all_causes(namespace: Namespace) -> None:
    status = namespace.request_error("POST", namespace.pods, pod("p", labels={"a": "b c"}, restartPolicy="Maybe"))
    assert [cause["field"] for cause in status["details"]["causes"]] == ["metadata.labels", "spec.restartPolicy"]
    assert status["message"].startswith('Pod "p" is invalid: [metadata.labels: ')
    assert status["message"].endswith('"OnFailure", "Never"]')


def test_a_pod_whose_namespace_contradicts_the_path_is_refused(namespace: Namespace) -> None:
    assert namespace.request_error("POST", namespace.pods, pod("p", metadata={"namespace": "other"})) == {
        "metadata": {},
        "message": "the namespace of the provided object does not match the namespace sent on the request",
        "reason": "BadRequest",
        "code": 400,
    }


def test_a_pod_cannot_be_bound_twice(namespace: Namespace) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "elsewhere"}}
    assert namespace.request_error("POST", f"{namespace.pods}/p/binding", binding) == {
        "metadata": {},
        "message": 'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "nowhere"',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "pods/binding"},
        "code": 409,
    }


def test_a_binding_with_another_uid_is_refused(namespace: Namespace) -> None:
    uid = namespace.create_pod("p")["metadata"]["uid"]
    binding = {"metadata": {"name": "p", "uid": "other"}, "target": {"kind": "Node", "name": "nowhere"}}
    why = (
        f"StorageError: invalid object, Code: 4, Key: /registry/pods/{namespace.name}/p, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {uid}"
    )
    assert namespace.request_error("POST", f"{namespace.pods}/p/binding", binding) == {
        "metadata": {},
        "message": f'Operation cannot be fulfilled on pods "p": {why}',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "pods"},
        "code": 409,
    }


def test_a_terminating_pod_cannot_be_bound(namespace: Namespace) -> None:
    namespace.create_pod("p", metadata={"finalizers": ["example.com/hold"]})
    namespace.delete_pod("p")
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "nowhere"}}
    assert namespace.request_error("POST", f"{namespace.pods}/p/binding", binding) == {
        "metadata": {},
        "message": (
            'Operation cannot be fulfilled on pods/binding "p": pod p is being deleted, cannot be assigned to a host'
        ),
        "reason": "Conflict",
        "details": {"name": "p", "kind": "pods/binding"},
        "code": 409,
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (
            "GET",
            "/api/v1/nothings",
            {"message": "the server could not find the requested resource", "reason": "NotFound", "code": 404},
        ),
        (
            "POST",
            "/api/v1/pods",
            {
                "message": "the server does not allow this method on the requested resource",
                "reason": "MethodNotAllowed",
                "code": 405,
            },
        ),
    ],
)
def test_an_unknown_path_or_method_is_refused(namespace: Namespace, method: str, path: str, status: Json) -> None:
    assert namespace.request_error(method, path, {}) == {"metadata": {}, "details": {}, **status}


def test_discovery_returns_the_version_and_the_resources(namespace: Namespace) -> None:
    version = client.VersionApi(namespace.core.api_client).get_code()
    assert version.major == "1"
    assert re.fullmatch(r"v1\.\d+\.\d+.*", version.git_version)
    names = {row.name for row in namespace.core.get_api_resources().resources}
    assert names >= {"pods", "pods/log", "pods/exec", "pods/status", "pods/binding", "namespaces", "events", "nodes"}


async def response_of(fault: Fault) -> Json:
    response = await fault(cast(Any, None), cast(Any, None))
    return cast(Json, json.loads(cast(web.Response, response).text or ""))


def test_a_forbidden_error_of_rbac_equals_the_one_of_the_fault_proxy(control_plane: ControlPlane) -> None:
    """Compare the real error with the imitation that other tests use because the embedded server has no RBAC."""
    admin = client.CoreV1Api(config.new_client_from_config_dict(control_plane.kubeconfig))
    namespace = admin.create_namespace({"metadata": {"generateName": "forbidden-"}}).metadata.name
    admin.create_namespaced_service_account(namespace, {"metadata": {"name": "kpo"}})
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "kpo")
    core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
    with pytest.raises(client.ApiException) as caught:
        core.list_namespaced_pod(namespace)
    real = json.loads(caught.value.body)
    user = f"system:serviceaccount:{namespace}:kpo"
    message = (
        f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{namespace}"'
    )
    common = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}
    assert real == {**common, "metadata": {}, "details": {"kind": "pods"}, "message": message}
    imitation = asyncio.run(response_of(forbidden("list", namespace)))
    assert imitation.pop("message").startswith("pods is forbidden: User ")
    assert imitation == {**common, **imitation}
    with pytest.raises(client.ApiException) as caught:
        client.BatchV1Api(core.api_client).list_namespaced_job(namespace)
    imitation = asyncio.run(response_of(forbidden("list", namespace, "jobs", "batch")))
    assert json.loads(caught.value.body)["message"] == imitation["message"].replace('"kpo"', f'"{user}"')


def test_a_policy_denies_a_deletion_in_words_that_differ_from_those_of_rbac(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ValidatingAdmissionPolicy also chooses the status; 422 Unprocessable Entity is its default."""
    core = client.CoreV1Api(config.new_client_from_config_dict(control_plane.kubeconfig))
    registration = client.AdmissionregistrationV1Api(core.api_client)
    name = core.create_namespace({"metadata": {"generateName": "policy-"}}).metadata.name
    core.create_namespaced_pod(name, pod("kept", labels={KPO_LABEL: "True"}))
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    policy = {
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": selector},
        "validations": [{"expression": "false", "message": "keep it"}],
    }
    registration.create_validating_admission_policy({"metadata": {"name": name}, "spec": policy})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    registration.create_validating_admission_policy_binding({"metadata": {"name": name}, "spec": binding})
    extra = {"kube_config": control_plane.kubeconfig}
    monkeypatch.setenv("AIRFLOW_CONN_POLICY", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    api = KubeClient("policy")
    (kept,) = api.list_workloads([name]).workloads
    try:
        wait_until_denied(core, name)
        with pytest.raises(AdmissionDenied) as caught:
            api.delete(kept, 0)
    finally:
        registration.delete_validating_admission_policy_binding(name)
        registration.delete_validating_admission_policy(name)
    assert caught.value.cause.startswith(f"422 Unprocessable Entity, by ValidatingAdmissionPolicy '{name}'")
    assert "keep it" in caught.value.server_message


def wait_until_denied(core: client.CoreV1Api, namespace: str) -> None:
    """Wait until the API server knows of a new policy."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            core.delete_namespaced_pod("kept", namespace, dry_run="All")
        except client.ApiException:
            return
        time.sleep(0.2)
