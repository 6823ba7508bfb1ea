"""PATCH: the changes that it makes, and those that it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.space import MERGE, Json, Space

STRATEGIC = "application/strategic-merge-patch+json"
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
def test_each_kind_of_patch_changes_labels(space: Space, content_type: str, patch: Any) -> None:
    before = space.create("p", labels={"drop": "1", "same": "1"})
    after = space.call("PATCH", f"{space.pods}/p", patch, content_type)
    assert after["metadata"]["labels"] == {"same": "1", "keep": "1"}
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_the_status_is_written_by_its_own_path_only(space: Space) -> None:
    space.create("p")
    patch = {"metadata": {"annotations": {"a": "b"}}, "status": {"phase": "Running"}, "spec": {"nodeName": "n"}}
    assert space.patch("p/status", patch)["spec"].get("nodeName") is None
    after = space.patch("p", {"status": {"phase": "Failed"}, "metadata": {"annotations": {"c": "d"}}})
    assert after["status"]["phase"] == "Running"
    assert after["metadata"]["annotations"] == {"a": "b", "c": "d"}


@pytest.mark.parametrize(
    ("content_type", "patch", "status"),
    [
        pytest.param(
            MERGE,
            {"metadata": {"uid": "x"}},
            refused("metadata.uid", "FieldValueInvalid", 'Invalid value: "x": field is immutable'),
            id="another uid",
        ),
        pytest.param(
            MERGE,
            {"metadata": {"labels": {"a": LONG}}},
            refused(
                "metadata.labels",
                "FieldValueInvalid",
                f'Invalid value: "{LONG}": must be no more than 63 bytes',
            ),
            id="a long label value",
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
            id="an unknown kind",
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
            id="an old version",
        ),
        pytest.param(
            MERGE,
            {"metadata": {"name": "q"}},
            {
                "message": "the name of the object (q) does not match the name on the URL (p)",
                "reason": "BadRequest",
                "code": 400,
            },
            id="another name",
        ),
    ],
)
def test_a_patch_that_is_refused(space: Space, content_type: str, patch: Any, status: Json) -> None:
    space.create("p")
    assert space.fails("PATCH", f"{space.pods}/p", patch, content_type) == {"metadata": {}, **status}


@pytest.mark.parametrize(
    ("content_type", "patch", "code", "reason"),
    [
        pytest.param(MERGE, {"spec": {"dnsPolicy": "None"}}, 422, "Invalid", id="the spec is fixed"),
        pytest.param(MERGE, [], 400, "BadRequest", id="the wrong shape"),
    ],
)
def test_a_patch_that_is_refused_at_length(
    space: Space, content_type: str, patch: Json, code: int, reason: str
) -> None:
    space.create("p")
    status = space.fails("PATCH", f"{space.pods}/p", patch, content_type)
    assert (status["code"], status["reason"]) == (code, reason)


def test_a_patch_without_effect_keeps_the_version(space: Space) -> None:
    before = space.create("p", labels={"a": "b"})
    after = space.patch("p", {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_strategic_patch_adds_finalizers_and_a_merge_patch_replaces_them(space: Space) -> None:
    space.create("p", metadata={"finalizers": ["example.com/a"]})
    for content_type, name, expected in (
        (STRATEGIC, "example.com/b", ["example.com/b", "example.com/a"]),
        (MERGE, "example.com/c", ["example.com/c"]),
    ):
        patch = {"metadata": {"finalizers": [name]}}
        after = space.call("PATCH", f"{space.pods}/p", patch, content_type)
        assert after["metadata"]["finalizers"] == expected
    after = space.call("PATCH", f"{space.pods}/p", {"metadata": {"finalizers": None}}, STRATEGIC)
    assert "finalizers" not in after["metadata"]


def test_a_pod_in_deletion_can_be_patched(space: Space) -> None:
    space.create("p")
    space.bind("p")
    space.delete("p")
    after = space.patch("p", {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["labels"] == {"a": "b"}
    assert after["metadata"]["deletionGracePeriodSeconds"] == 30
