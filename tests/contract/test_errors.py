"""Creation of pods, and the bodies of the API's errors."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, cast

import pytest
from aiohttp import web
from kubernetes import client, config

from tests.contract.space import MERGE, Json, Space, container, pod
from tests.control_plane import ControlPlane
from tests.proxy import Fault, forbidden

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def test_a_created_pod_gets_identity_and_defaults(space: Space) -> None:
    made = space.create("p", status={"phase": "Running"})
    assert made["kind"] == "Pod"
    assert {"uid", "resourceVersion", "creationTimestamp"} <= made["metadata"].keys()
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["namespace"] == space.name
    assert made["status"]["phase"] == "Pending"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30
    unset = space.call("POST", space.pods, {"metadata": {"name": "q"}, "spec": {"containers": [container("c")]}})
    assert unset["spec"]["restartPolicy"] == "Always"


def test_generated_names_keep_their_base_and_fit(space: Space) -> None:
    name = space.call("POST", space.pods, pod("", metadata={"name": "", "generateName": "x" * 70}))["metadata"]["name"]
    assert name.startswith("x" * 58)
    assert len(name) == 63


def test_what_is_not_there_is_not_found(space: Space) -> None:
    not_found = {
        "metadata": {},
        "message": 'pods "p" not found',
        "reason": "NotFound",
        "details": {"name": "p", "kind": "pods"},
        "code": 404,
    }
    assert space.fails("GET", f"{space.pods}/p") == not_found
    assert space.fails("DELETE", f"{space.pods}/p") == not_found
    assert space.fails("PATCH", f"{space.pods}/p", {"metadata": {"labels": {"a": "b"}}}, MERGE) == not_found


def test_a_namespace_that_does_not_exist_takes_no_pods(space: Space) -> None:
    not_found = {
        "metadata": {},
        "message": 'namespaces "nope" not found',
        "reason": "NotFound",
        "details": {"name": "nope", "kind": "namespaces"},
        "code": 404,
    }
    assert space.fails("POST", "/api/v1/namespaces/nope/pods", pod("p")) == not_found
    assert space.fails("GET", "/api/v1/namespaces/nope") == not_found


def test_a_name_is_taken_once(space: Space) -> None:
    space.create("p")
    assert space.fails("POST", space.pods, pod("p")) == {
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
            id="a name that is no DNS name",
        ),
        pytest.param(
            pod(""),
            "",
            {
                "reason": "FieldValueRequired",
                "field": "metadata.name",
                "message": "Required value: name or generateName is required",
            },
            id="no name",
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
            id="a bad label value",
        ),
        pytest.param(
            pod("p", labels={"a": "x" * 64}),
            "p",
            {
                "reason": "FieldValueInvalid",
                "field": "metadata.labels",
                "message": f'Invalid value: "{"x" * 64}": must be no more than 63 bytes',
            },
            id="a long label value",
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
            id="a bad label key",
        ),
        pytest.param(
            {"metadata": {"name": "p"}},
            "p",
            {"reason": "FieldValueRequired", "field": "spec.containers", "message": "Required value"},
            id="no containers",
        ),
        pytest.param(
            pod("p", restartPolicy="Maybe"),
            "p",
            {
                "reason": "FieldValueNotSupported",
                "field": "spec.restartPolicy",
                "message": 'Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"',
            },
            id="a bad restart policy",
        ),
    ],
)
def test_a_pod_that_is_invalid(space: Space, body: Json, name: str, cause: Json) -> None:
    assert space.fails("POST", space.pods, body) == {
        "metadata": {},
        "message": f'Pod "{name}" is invalid: {cause["field"]}: {cause["message"]}',
        "reason": "Invalid",
        "details": {"kind": "Pod", "causes": [cause], **({"name": name} if name else {})},
        "code": 422,
    }


def test_all_causes_are_told(space: Space) -> None:
    status = space.fails("POST", space.pods, pod("p", labels={"a": "b c"}, restartPolicy="Maybe"))
    assert [cause["field"] for cause in status["details"]["causes"]] == ["metadata.labels", "spec.restartPolicy"]
    assert status["message"].startswith('Pod "p" is invalid: [metadata.labels: ')
    assert status["message"].endswith('"OnFailure", "Never"]')


def test_two_namespaces_contradict_each_other(space: Space) -> None:
    assert space.fails("POST", space.pods, pod("p", metadata={"namespace": "other"})) == {
        "metadata": {},
        "message": "the namespace of the provided object does not match the namespace sent on the request",
        "reason": "BadRequest",
        "code": 400,
    }


def test_a_pod_is_bound_once(space: Space) -> None:
    space.create("p")
    space.bind("p")
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "elsewhere"}}
    assert space.fails("POST", f"{space.pods}/p/binding", binding) == {
        "metadata": {},
        "message": 'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "nowhere"',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "pods/binding"},
        "code": 409,
    }


def test_a_pod_is_not_bound_in_the_place_of_another(space: Space) -> None:
    uid = space.create("p")["metadata"]["uid"]
    binding = {"metadata": {"name": "p", "uid": "other"}, "target": {"kind": "Node", "name": "nowhere"}}
    why = (
        f"StorageError: invalid object, Code: 4, Key: /registry/pods/{space.name}/p, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {uid}"
    )
    assert space.fails("POST", f"{space.pods}/p/binding", binding) == {
        "metadata": {},
        "message": f'Operation cannot be fulfilled on pods "p": {why}',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "pods"},
        "code": 409,
    }


def test_a_pod_in_deletion_is_not_bound(space: Space) -> None:
    space.create("p", metadata={"finalizers": ["example.com/hold"]})
    space.delete("p")
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "nowhere"}}
    assert space.fails("POST", f"{space.pods}/p/binding", binding) == {
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
def test_a_path_or_method_that_does_not_exist(space: Space, method: str, path: str, status: Json) -> None:
    assert space.fails(method, path, {}) == {"metadata": {}, "details": {}, **status}


def test_the_server_tells_its_version_and_resources(space: Space) -> None:
    version = client.VersionApi(space.core.api_client).get_code()
    assert version.major == "1"
    assert re.fullmatch(r"v1\.\d+\.\d+.*", version.git_version)
    names = {row.name for row in space.core.get_api_resources().resources}
    assert names >= {"pods", "pods/log", "pods/exec", "pods/status", "pods/binding", "namespaces", "events", "nodes"}


async def imitate(fault: Fault) -> Json:
    answer = await fault(cast(Any, None), cast(Any, None))
    return cast(Json, json.loads(cast(web.Response, answer).text or ""))


def test_forbidden_reads_as_the_proxy_of_the_other_tests_words_it(control_plane: ControlPlane) -> None:
    """Compare the words of RBAC with the proxy's, by which other tests replace it: the embedded server has no RBAC."""
    admin = client.CoreV1Api(config.new_client_from_config_dict(control_plane.kubeconfig))
    space = admin.create_namespace({"metadata": {"generateName": "forbidden-"}}).metadata.name
    admin.create_namespaced_service_account(space, {"metadata": {"name": "kpo"}})
    settings = control_plane.kubeconfig_for_service_account(space, "kpo")
    core = client.CoreV1Api(config.new_client_from_config_dict(settings))
    with pytest.raises(client.ApiException) as caught:
        core.list_namespaced_pod(space)
    real = json.loads(caught.value.body)
    user = f"system:serviceaccount:{space}:kpo"
    message = f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{space}"'
    common = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}
    assert real == {**common, "metadata": {}, "details": {"kind": "pods"}, "message": message}
    imitated = asyncio.run(imitate(forbidden("list", space)))
    assert imitated.pop("message").startswith("pods is forbidden: User ")
    assert imitated == {**common, **imitated}
