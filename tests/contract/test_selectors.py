"""Label and field selectors: what they select, and which ones are refused."""

from __future__ import annotations

import pytest

from tests.contract.namespace import Namespace, Server


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("app=web", ["web-1", "web-2"]),
        ("app==web", ["web-1", "web-2"]),
        ("app = web", ["web-1", "web-2"]),
        ("app!=web", ["db", "none"]),
        ("app in (web, db)", ["db", "web-1", "web-2"]),
        ("app in (cache)", []),
        ("app notin (web)", ["db", "none"]),
        ("app", ["db", "web-1", "web-2"]),
        ("!app", ["none"]),
        ("app=web,try=2", ["web-2"]),
        ("app in (web),try notin (1),!gone", ["web-2"]),
        ("empty=", ["none"]),
        ("example.com/key=v", ["db"]),
        ("", ["db", "none", "web-1", "web-2"]),
    ],
)
def test_a_label_selector_selects_the_matching_pods(namespace: Namespace, selector: str, expected: list[str]) -> None:
    namespace.create_pod("web-1", labels={"app": "web", "try": "1"})
    namespace.create_pod("web-2", labels={"app": "web", "try": "2"})
    namespace.create_pod("db", labels={"app": "db", "example.com/key": "v"})
    namespace.create_pod("none", labels={"empty": ""})
    assert namespace.pod_names(labelSelector=selector) == expected


@pytest.mark.parametrize(
    "selector", ["app in web", "app=(x)", "a=b,", "=x", "app in (a", "a b", "bad key!=x", "a=b c", "a=-", "a=b!"]
)
def test_a_malformed_label_selector_is_refused(namespace: Namespace, selector: str) -> None:
    status = namespace.request_error("GET", namespace.pods, labelSelector=selector)
    assert (status["code"], status["reason"]) == (400, "BadRequest")


def test_a_label_selector_with_an_invalid_value_is_refused_with_the_reason(namespace: Namespace) -> None:
    assert namespace.request_error("GET", namespace.pods, labelSelector="a=-")["message"] == (
        """unable to parse requirement: values[0][a]: Invalid value: "-": a valid label must be an empty string or """
        """consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric """
        """character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is """
        """'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"""
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.name!=a", ["b"]),
        ("status.phase=Pending", ["a"]),
        ("status.phase!=Pending,metadata.name==b", ["b"]),
        ("spec.nodeName=nowhere", ["b"]),
        ("spec.nodeName=", ["a"]),
        ("metadata.namespace=default", []),
    ],
)
def test_a_field_selector_selects_the_matching_pods(namespace: Namespace, selector: str, expected: list[str]) -> None:
    namespace.create_pod("a")
    namespace.create_pod("b")
    namespace.bind_pod("b")
    namespace.set_phase("b", "Running")
    assert namespace.pod_names(fieldSelector=selector) == expected


def test_a_field_selector_excludes_namespaces_from_a_cluster_wide_list(server: Server) -> None:
    namespaces = [Namespace(server) for _ in range(3)]
    for namespace in namespaces:
        namespace.create_pod("pod", labels={"only": namespaces[0].name})
    first, *others = (namespace.name for namespace in namespaces)
    excluded = ",".join(f"metadata.namespace!={name}" for name in others)
    pods = namespaces[0].call("GET", "/api/v1/pods", labelSelector=f"only={first}", fieldSelector=excluded, limit=2)
    assert [pod["metadata"]["namespace"] for pod in pods["items"]] == [first]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("spec.image=x", "field label not supported: spec.image"),
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
    ],
)
def test_an_invalid_field_selector_is_refused_with_the_reason(
    namespace: Namespace, selector: str, message: str
) -> None:
    assert namespace.request_error("GET", namespace.pods, fieldSelector=selector) == {
        "metadata": {},
        "message": message,
        "reason": "BadRequest",
        "code": 400,
    }


def test_events_are_selected_by_their_involved_object_and_reason(namespace: Namespace) -> None:
    for name in ("one", "two"):
        involved = {"kind": "Pod", "name": name, "namespace": namespace.name, "uid": f"uid-{name}"}
        body = {"metadata": {"name": name}, "involvedObject": involved, "reason": "Started", "type": "Normal"}
        namespace.call("POST", f"/api/v1/namespaces/{namespace.name}/events", body)
    found = namespace.core.list_namespaced_event(
        namespace.name, field_selector="involvedObject.name=two,reason=Started"
    )
    assert [event.involved_object.uid for event in found.items] == ["uid-two"]
