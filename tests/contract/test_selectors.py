"""Selectors: the pods that each selects, and selectors that are refused."""

from __future__ import annotations

import pytest

from tests.contract.space import Server, Space


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
def test_label_selectors(space: Space, selector: str, expected: list[str]) -> None:
    space.create("web-1", labels={"app": "web", "try": "1"})
    space.create("web-2", labels={"app": "web", "try": "2"})
    space.create("db", labels={"app": "db", "example.com/key": "v"})
    space.create("none", labels={"empty": ""})
    assert space.listed(labelSelector=selector) == expected


@pytest.mark.parametrize(
    "selector", ["app in web", "app=(x)", "a=b,", "=x", "app in (a", "a b", "bad key!=x", "a=b c", "a=-", "a=b!"]
)
def test_malformed_label_selectors_are_refused(space: Space, selector: str) -> None:
    status = space.fails("GET", space.pods, labelSelector=selector)
    assert (status["code"], status["reason"]) == (400, "BadRequest")


def test_a_label_value_that_no_pod_can_have_is_refused(space: Space) -> None:
    assert space.fails("GET", space.pods, labelSelector="a=-")["message"] == (
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
def test_field_selectors(space: Space, selector: str, expected: list[str]) -> None:
    space.create("a")
    space.create("b")
    space.bind("b")
    space.set_phase("b", "Running")
    assert space.listed(fieldSelector=selector) == expected


def test_namespaces_are_left_out_of_all(server: Server) -> None:
    spaces = [Space(server) for _ in range(3)]
    for space in spaces:
        space.create("pod", labels={"only": spaces[0].name})
    first, *others = (space.name for space in spaces)
    excluded = ",".join(f"metadata.namespace!={name}" for name in others)
    pods = spaces[0].call("GET", "/api/v1/pods", labelSelector=f"only={first}", fieldSelector=excluded, limit=2)
    assert [pod["metadata"]["namespace"] for pod in pods["items"]] == [first]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("spec.image=x", "field label not supported: spec.image"),
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
    ],
)
def test_bad_field_selectors_are_refused(space: Space, selector: str, message: str) -> None:
    assert space.fails("GET", space.pods, fieldSelector=selector) == {
        "metadata": {},
        "message": message,
        "reason": "BadRequest",
        "code": 400,
    }


def test_events_are_selected_by_what_they_are_about(space: Space) -> None:
    for name in ("one", "two"):
        involved = {"kind": "Pod", "name": name, "namespace": space.name, "uid": f"uid-{name}"}
        body = {"metadata": {"name": name}, "involvedObject": involved, "reason": "Started", "type": "Normal"}
        space.call("POST", f"/api/v1/namespaces/{space.name}/events", body)
    found = space.core.list_namespaced_event(space.name, field_selector="involvedObject.name=two,reason=Started")
    assert [event.involved_object.uid for event in found.items] == ["uid-two"]
