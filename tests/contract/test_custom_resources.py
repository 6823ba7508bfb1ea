"""Custom resources: their definitions, and their objects, which the server stores without knowing them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from tests.contract.namespace import MERGE, STRATEGIC, Json, Namespace, names_in

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NOT_FOUND = "404 page not found\n"


class Widgets:
    """A custom resource in a new group, and its objects in one namespace."""

    def __init__(self, namespace: Namespace, suffix: str = "example.com") -> None:
        self.namespace = namespace
        self.group = f"group-{uuid.uuid4().hex[:8]}.{suffix}"
        self.api = f"/apis/{self.group}/v1beta2"
        self.path = f"{self.api}/namespaces/{namespace.name}/widgets"
        self.definition: Json = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"widgets.{self.group}"},
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
                "versions": [
                    {
                        "name": "v1beta2",
                        "served": True,
                        "storage": True,
                        "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                ],
            },
        }

    def define(self) -> None:
        self.namespace.call("POST", DEFINITIONS, self.definition)
        end = time.monotonic() + 20
        while (code := self.status_code("GET")) != 200:  # a real server serves the resource after a moment
            assert time.monotonic() < end, f"{self.path} still returns {code}"
            time.sleep(0.02)

    def status_code(self, method: str, body: Json | None = None) -> int:
        server = self.namespace.server
        return server.http.request(method, server.url + self.path, json=body, timeout=30).status_code

    def widget(self, name: str, **metadata: Any) -> Json:
        return {
            "apiVersion": f"{self.group}/v1beta2",
            "kind": "Widget",
            "metadata": {"name": name, **metadata},
            "spec": {"size": 1},
            "status": {"state": "NEW"},
        }

    def create(self, name: str, **metadata: Any) -> Json:
        return self.namespace.call("POST", self.path, self.widget(name, **metadata))

    def error(self, reason: str, message: str, code: int, kind: str = "widgets", name: str = "w") -> Json:
        """Return the API server's error about a widget."""
        about = {"name": name, "group": self.group, "kind": kind}
        return {"metadata": {}, "message": message, "reason": reason, "details": about, "code": code}


@pytest.fixture
def widgets(namespace: Namespace) -> Widgets:
    """Define a custom resource."""
    widgets = Widgets(namespace)
    widgets.define()
    return widgets


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_resource_that_is_not_defined_is_not_found_and_the_response_is_not_a_status(
    namespace: Namespace, method: str
) -> None:
    server, path = namespace.server, Widgets(namespace).path
    for suffix in ("", "/w"):
        response = server.http.request(method, server.url + path + suffix, json={}, timeout=30)
        assert (response.status_code, response.text) == (404, NOT_FOUND)
        assert response.headers["Content-Type"].startswith("text/plain")


def test_a_definition_in_a_protected_group_is_refused_without_approval(namespace: Namespace) -> None:
    widgets = Widgets(namespace, "k8s.io")
    error = namespace.request_error("POST", DEFINITIONS, widgets.definition)
    assert [cause["field"] for cause in error["details"]["causes"]] == [
        "metadata.annotations[api-approved.kubernetes.io]"
    ]
    widgets.definition["metadata"]["annotations"] = {"api-approved.kubernetes.io": "https://example.com/pull/1"}
    widgets.define()


def test_a_definition_whose_name_is_not_that_of_its_resource_is_refused(namespace: Namespace) -> None:
    widgets = Widgets(namespace)
    widgets.definition["metadata"]["name"] = f"gadgets.{widgets.group}"
    error = namespace.request_error("POST", DEFINITIONS, widgets.definition)
    assert error["message"] == (
        f'CustomResourceDefinition.apiextensions.k8s.io "gadgets.{widgets.group}" is invalid: metadata.name: '
        f'Invalid value: "gadgets.{widgets.group}": must be spec.names.plural+"."+spec.group'
    )


def test_a_definition_is_established(widgets: Widgets) -> None:
    path = f"{DEFINITIONS}/widgets.{widgets.group}"

    def is_established(found: Json) -> bool:
        holding = {one["type"] for one in found["status"].get("conditions") or () if one["status"] == "True"}
        return {"NamesAccepted", "Established"} <= holding

    assert widgets.namespace.wait_for(path, is_established)


def test_discovery_returns_a_defined_resource(widgets: Widgets) -> None:
    rows = widgets.namespace.call("GET", widgets.api)["resources"]
    assert {(row["name"], row["kind"], row["namespaced"]) for row in rows} == {
        ("widgets", "Widget", True),
        ("widgets/status", "Widget", True),
    }
    groups = widgets.namespace.call("GET", "/apis")["groups"]
    assert widgets.group in {group["name"] for group in groups}


def test_a_created_object_has_a_generation_and_no_status(widgets: Widgets) -> None:
    created = widgets.create("w", labels={"a": "b"})
    assert (created["apiVersion"], created["kind"]) == (f"{widgets.group}/v1beta2", "Widget")
    assert created["spec"] == {"size": 1}
    assert "status" not in created
    assert created["metadata"]["generation"] == 1
    assert created["metadata"]["labels"] == {"a": "b"}
    assert {"uid", "resourceVersion", "creationTimestamp", "namespace"} <= created["metadata"].keys()


def test_errors_about_an_object_name_its_group(widgets: Widgets) -> None:
    namespace, qualified = widgets.namespace, f"widgets.{widgets.group}"
    missing = widgets.error("NotFound", f'{qualified} "w" not found', 404)
    assert namespace.request_error("GET", f"{widgets.path}/w") == missing
    assert namespace.request_error("DELETE", f"{widgets.path}/w") == missing
    assert namespace.request_error("PATCH", f"{widgets.path}/w", {"spec": {}}, MERGE) == missing
    widgets.create("w")
    taken = widgets.error("AlreadyExists", f'{qualified} "w" already exists', 409)
    assert namespace.request_error("POST", widgets.path, widgets.widget("w")) == taken
    invalid = namespace.request_error("POST", widgets.path, widgets.widget("Bad_Name"))
    assert (invalid["reason"], invalid["details"]["kind"]) == ("Invalid", "Widget")
    assert invalid["message"].startswith(f'Widget.{widgets.group} "Bad_Name" is invalid: metadata.name: ')


def test_a_list_has_typed_items_and_always_a_continue_token(widgets: Widgets) -> None:
    for name in "ab":
        widgets.create(name)
    found = widgets.namespace.call("GET", widgets.path)
    assert (found["kind"], found["apiVersion"]) == ("WidgetList", f"{widgets.group}/v1beta2")
    assert {item["kind"] for item in found["items"]} == {"Widget"}
    assert found["metadata"]["continue"] == ""
    first = widgets.namespace.call("GET", widgets.path, limit=1)
    rest = widgets.namespace.call("GET", widgets.path, continue_=first["metadata"]["continue"])
    assert names_in(first) + names_in(rest) == ["a", "b"]
    assert "a" in names_in(widgets.namespace.call("GET", f"{widgets.api}/widgets"))


def test_a_selector_selects_by_label_and_by_name_only(widgets: Widgets) -> None:
    widgets.create("a", labels={"app": "web"})
    widgets.create("b")
    assert names_in(widgets.namespace.call("GET", widgets.path, labelSelector="app=web")) == ["a"]
    assert names_in(widgets.namespace.call("GET", widgets.path, fieldSelector="metadata.name=b")) == ["b"]
    error = widgets.namespace.request_error("GET", widgets.path, fieldSelector="spec.size=1")
    assert error["message"] == "field label not supported: spec.size"


def test_a_watch_returns_typed_objects(widgets: Widgets) -> None:
    version = widgets.create("w")["metadata"]["resourceVersion"]
    widgets.namespace.call("PATCH", f"{widgets.path}/w", {"spec": {"size": 2}}, MERGE)
    widgets.namespace.call("DELETE", f"{widgets.path}/w")
    server = widgets.namespace.server
    params = {"watch": "true", "timeoutSeconds": "1", "resourceVersion": version}
    response = server.http.get(server.url + widgets.path, params=params, timeout=30)
    events = [json.loads(line) for line in response.content.splitlines()]
    assert [(event["type"], event["object"]["kind"]) for event in events] == [
        ("MODIFIED", "Widget"),
        ("DELETED", "Widget"),
    ]


def test_the_status_is_changed_only_through_its_subresource(widgets: Widgets) -> None:
    widgets.create("w")
    patch = {"spec": {"size": 2}, "status": {"state": "RUNNING"}}
    after = widgets.namespace.call("PATCH", f"{widgets.path}/w/status", patch, MERGE)
    assert (after["spec"], after["status"]) == ({"size": 1}, {"state": "RUNNING"})
    assert after["metadata"]["generation"] == 1
    after = widgets.namespace.call("PATCH", f"{widgets.path}/w", {**patch, "status": {"state": "FAILED"}}, MERGE)
    assert (after["spec"], after["status"]) == ({"size": 2}, {"state": "RUNNING"})
    assert after["metadata"]["generation"] == 2
    assert widgets.namespace.call("GET", f"{widgets.path}/w/status") == after


def test_a_strategic_merge_patch_is_refused(widgets: Widgets) -> None:
    widgets.create("w")
    error = widgets.namespace.request_error("PATCH", f"{widgets.path}/w", {"spec": {}}, STRATEGIC)
    assert error == {
        "metadata": {},
        "message": (
            "the body of the request was in an unknown format - accepted media types include: "
            f"application/json-patch+json, {MERGE}, application/apply-patch+yaml"
        ),
        "reason": "UnsupportedMediaType",
        "code": 415,
    }


@pytest.mark.parametrize(
    "options", [None, {"propagationPolicy": "Background"}], ids=["by default", "in the background"]
)
def test_a_deleted_object_is_gone_and_the_response_is_a_status(widgets: Widgets, options: Json | None) -> None:
    uid = widgets.create("w")["metadata"]["uid"]
    status = widgets.namespace.call("DELETE", f"{widgets.path}/w", options)
    details = {"name": "w", "group": widgets.group, "kind": "widgets", "uid": uid}
    success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    assert status == success
    assert not widgets.namespace.find(f"{widgets.path}/w")


@pytest.mark.parametrize(("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_an_object_waits_for_the_garbage_collector_if_the_policy_requires_it(
    widgets: Widgets, policy: str, finalizer: str
) -> None:
    widgets.create("w")
    deleted = widgets.namespace.call("DELETE", f"{widgets.path}/w", {"propagationPolicy": policy})
    assert deleted["kind"] == "Widget"
    assert deleted["metadata"]["finalizers"] == [finalizer]
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 0
    assert deleted["metadata"]["generation"] == 2
    again = widgets.namespace.call("DELETE", f"{widgets.path}/w")
    assert again == deleted
    widgets.namespace.call("PATCH", f"{widgets.path}/w", {"metadata": {"finalizers": None}}, MERGE)
    assert not widgets.namespace.find(f"{widgets.path}/w")


def test_an_unknown_propagation_policy_is_refused(widgets: Widgets) -> None:
    widgets.create("w")
    why = 'Unsupported value: "Nope": supported values: "Foreground", "Background", "Orphan", "nil"'
    error = widgets.namespace.request_error("DELETE", f"{widgets.path}/w", {"propagationPolicy": "Nope"})
    assert error["message"] == f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: {why}'
    assert widgets.namespace.find(f"{widgets.path}/w")


def test_a_delete_whose_preconditions_do_not_hold_is_refused(widgets: Widgets) -> None:
    metadata = widgets.create("w")["metadata"]
    for precondition, why in (
        (
            {"uid": "other"},
            f"the UID in the precondition (other) does not match the UID in record ({metadata['uid']}). "
            "The object might have been deleted and then recreated",
        ),
        (
            {"resourceVersion": "1"},
            "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record "
            f"({metadata['resourceVersion']}). The object might have been modified",
        ),
    ):
        error = widgets.namespace.request_error("DELETE", f"{widgets.path}/w", {"preconditions": precondition})
        message = f'Operation cannot be fulfilled on Widget.{widgets.group} "w": {why}'
        assert error == widgets.error("Conflict", message, 409, "Widget")
    holding = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    widgets.namespace.call("DELETE", f"{widgets.path}/w", {"preconditions": holding})
    assert not widgets.namespace.find(f"{widgets.path}/w")


def test_a_collection_is_deleted_by_label_selector(widgets: Widgets) -> None:
    for name in "abc":
        widgets.create(name, labels={"go": "no" if name == "b" else "yes"})
    widgets.namespace.call("DELETE", widgets.path, labelSelector="go=yes")
    assert names_in(widgets.namespace.call("GET", widgets.path)) == ["b"]


def test_deleting_a_definition_deletes_its_objects(widgets: Widgets) -> None:
    widgets.create("w")
    widgets.namespace.call("DELETE", f"{DEFINITIONS}/widgets.{widgets.group}")
    while widgets.status_code("GET") != 404:
        pass
    widgets.namespace.wait_for(f"{DEFINITIONS}/widgets.{widgets.group}", lambda found: not found)
    widgets.define()
    assert widgets.namespace.call("GET", widgets.path)["items"] == []
