"""PATCH of pods: the changes it makes, and the patches it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.namespace import MERGE, STRATEGIC, Json, Namespace

LONG = "x" * 64
CHANGED = "the object has been modified; please apply your changes to the latest version and try again"


def refused(field: str, reason: str, message: str) -> Json:
    return {
        "message": f'Pod "p" is invalid: {field}: {message}',
        "reason": "Invalid",
        "details": {
            "name": "p",
            "kind": "Pod",
            "causes": [{"reason": reason, "message": message, "field": field}],
        },
        "code": 422,
    }


@pytest.mark.parametrize(
    ("content_type", "patch"),
    [
        (MERGE, {"metadata": {"labels": {"keep": "1", "drop": None}}}),
        (STRATEGIC, {"metadata": {"labels": {"keep": "1", "drop": None}}}),
    ],
)
def test_each_patch_type_changes_labels(namespace: Namespace, content_type: str, patch: Any) -> None:
    before = namespace.create_pod("p", labels={"drop": "1", "same": "1"})
    after = namespace.call("PATCH", f"{namespace.pods}/p", patch, content_type)
    assert after["metadata"]["labels"] == {"same": "1", "keep": "1"}
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_the_status_is_changed_only_through_its_subresource(namespace: Namespace) -> None:
    namespace.create_pod("p")
    patch = {"metadata": {"annotations": {"a": "b"}}, "status": {"phase": "Running"}, "spec": {"nodeName": "n"}}
    assert namespace.patch_pod("p/status", patch)["spec"].get("nodeName") is None
    after = namespace.patch_pod("p", {"status": {"phase": "Failed"}, "metadata": {"annotations": {"c": "d"}}})
    assert after["status"]["phase"] == "Running"
    assert after["metadata"]["annotations"] == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    ("content_type", "patch", "status"),
    [
        pytest.param(
            MERGE,
            {"metadata": {"uid": "x"}},
            refused("metadata.uid", "FieldValueInvalid", 'Invalid value: "x": field is immutable'),
            id="it changes the uid",
        ),
        pytest.param(
            MERGE,
            {"metadata": {"labels": {"a": LONG}}},
            refused(
                "metadata.labels",
                "FieldValueInvalid",
                f'Invalid value: "{LONG}": must be no more than 63 bytes',
            ),
            id="a label value is too long",
        ),
        pytest.param(
            "text/plain",
            {"a": 1},
            {
                "message": "415: Unsupported Media Type",
                "reason": "UnsupportedMediaType",
                "details": {},
                "code": 415,
            },
            id="its type is unknown",
        ),
        pytest.param(
            MERGE,
            {"metadata": {"resourceVersion": "1"}},
            {
                "message": f'Operation cannot be fulfilled on pods "p": {CHANGED}',
                "reason": "Conflict",
                "details": {"name": "p", "kind": "pods"},
                "code": 409,
            },
            id="its resource version is outdated",
        ),
        pytest.param(
            MERGE,
            {"metadata": {"name": "q"}},
            {
                "message": "the name of the object (q) does not match the name on the URL (p)",
                "reason": "BadRequest",
                "code": 400,
            },
            id="it changes the name",
        ),
    ],
)
def test_an_invalid_patch_is_refused_with_the_servers_message(
    namespace: Namespace, content_type: str, patch: Any, status: Json
) -> None:
    namespace.create_pod("p")
    assert namespace.request_error("PATCH", f"{namespace.pods}/p", patch, content_type) == {"metadata": {}, **status}


@pytest.mark.parametrize(
    ("content_type", "patch", "code", "reason"),
    [
        pytest.param(MERGE, {"spec": {"dnsPolicy": "None"}}, 422, "Invalid", id="it changes the spec"),
        pytest.param(MERGE, [], 400, "BadRequest", id="it is not an object"),
    ],
)
def test_an_invalid_patch_is_refused_with_the_servers_reason(
    namespace: Namespace, content_type: str, patch: Json, code: int, reason: str
) -> None:
    namespace.create_pod("p")
    status = namespace.request_error("PATCH", f"{namespace.pods}/p", patch, content_type)
    assert (status["code"], status["reason"]) == (code, reason)


def test_a_patch_without_effect_keeps_the_resource_version(namespace: Namespace) -> None:
    before = namespace.create_pod("p", labels={"a": "b"})
    after = namespace.patch_pod("p", {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_strategic_patch_adds_finalizers_and_a_merge_patch_replaces_them(namespace: Namespace) -> None:
    namespace.create_pod("p", metadata={"finalizers": ["example.com/a"]})
    for content_type, name, expected in (
        (STRATEGIC, "example.com/b", ["example.com/b", "example.com/a"]),
        (MERGE, "example.com/c", ["example.com/c"]),
    ):
        patch = {"metadata": {"finalizers": [name]}}
        after = namespace.call("PATCH", f"{namespace.pods}/p", patch, content_type)
        assert after["metadata"]["finalizers"] == expected
    after = namespace.call("PATCH", f"{namespace.pods}/p", {"metadata": {"finalizers": None}}, STRATEGIC)
    assert "finalizers" not in after["metadata"]


def test_a_terminating_pod_can_be_patched(namespace: Namespace) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    namespace.delete_pod("p")
    after = namespace.patch_pod("p", {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["labels"] == {"a": "b"}
    assert after["metadata"]["deletionGracePeriodSeconds"] == 30
