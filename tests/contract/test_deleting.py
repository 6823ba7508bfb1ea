"""DELETE of pods: immediate removal, graceful termination, preconditions and finalizers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.contract.namespace import Json, Namespace


@pytest.mark.parametrize("options", [{}, *({"gracePeriodSeconds": seconds} for seconds in (0, 1, 100, -1))], ids=str)
def test_an_unbound_pod_is_removed_immediately(namespace: Namespace, options: Json) -> None:
    uid = namespace.create_pod("p")["metadata"]["uid"]
    response = namespace.delete_pod("p", **options)
    assert (response["kind"], response["metadata"]["uid"]) == ("Pod", uid)
    assert response["metadata"]["deletionGracePeriodSeconds"] == 0
    assert not namespace.get_pod("p")


@pytest.mark.parametrize(
    ("options", "grace"),
    [
        pytest.param({}, 30, id="the pod's own grace period"),
        pytest.param({"gracePeriodSeconds": 1}, 1, id="a shorter grace period"),
        pytest.param({"gracePeriodSeconds": 86400}, 86400, id="a longer grace period"),
        pytest.param({"gracePeriodSeconds": -1}, 1, id="a negative grace period counts as one second"),
    ],
)
def test_a_bound_pod_terminates_until_its_kubelet_confirms(namespace: Namespace, options: Json, grace: int) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    before = namespace.get_pod("p")
    response = namespace.delete_pod("p", **options)
    found = namespace.get_pod("p")
    assert found == response
    metadata = found["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == grace
    assert metadata["generation"] == before["metadata"]["generation"] + 1
    deadline = datetime.fromisoformat(metadata["deletionTimestamp"])
    requested = deadline - timedelta(seconds=grace)
    assert timedelta(0) <= requested - datetime.fromisoformat(metadata["creationTimestamp"]) < timedelta(seconds=10)
    assert (found["spec"], found["status"]) == (before["spec"], before["status"])
    assert namespace.pod_names(fieldSelector="status.phase=Pending") == ["p"]


def test_a_forced_delete_removes_a_bound_pod_immediately(namespace: Namespace) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    response = namespace.delete_pod("p", gracePeriodSeconds=0)
    assert (response["kind"], response["metadata"]["deletionGracePeriodSeconds"]) == ("Pod", 0)
    assert not namespace.get_pod("p")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("options", [{}, {"gracePeriodSeconds": 100}], ids=str)
def test_a_bound_pod_that_has_finished_is_removed_immediately(namespace: Namespace, phase: str, options: Json) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    namespace.set_phase("p", phase)
    assert namespace.delete_pod("p", **options)["metadata"]["deletionGracePeriodSeconds"] == 0
    assert not namespace.get_pod("p")


def test_a_pod_whose_own_grace_period_is_zero_is_removed_immediately(namespace: Namespace) -> None:
    namespace.create_pod("p", terminationGracePeriodSeconds=0)
    namespace.bind_pod("p")
    namespace.delete_pod("p")
    assert not namespace.get_pod("p")


def test_delete_options_in_the_query_are_honored_unless_there_is_a_body(namespace: Namespace) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    namespace.call("DELETE", f"{namespace.pods}/p", {"gracePeriodSeconds": 60}, gracePeriodSeconds=0)
    assert namespace.get_pod("p")
    namespace.call("DELETE", f"{namespace.pods}/p", gracePeriodSeconds=0)
    assert not namespace.get_pod("p")


def test_a_later_delete_can_shorten_the_grace_period_but_not_extend_it(namespace: Namespace) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    graces = [
        namespace.delete_pod("p", gracePeriodSeconds=seconds)["metadata"]["deletionGracePeriodSeconds"]
        for seconds in (60, 90, 20)
    ]
    assert graces == [60, 60, 20]
    assert namespace.delete_pod("p")["metadata"]["deletionGracePeriodSeconds"] == 20
    namespace.delete_pod("p", gracePeriodSeconds=0)
    assert not namespace.get_pod("p")


def conflict(why: str) -> dict[str, Any]:
    """Return the API server's error for a precondition on the pod `p` that does not hold."""
    return {
        "metadata": {},
        "message": f'Operation cannot be fulfilled on Pod "p": {why}',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "Pod"},
        "code": 409,
    }


def test_a_delete_with_another_uid_as_precondition_is_refused(namespace: Namespace) -> None:
    metadata = namespace.create_pod("p")["metadata"]
    why = (
        f"the UID in the precondition (other) does not match the UID in record ({metadata['uid']}). "
        "The object might have been deleted and then recreated"
    )
    assert namespace.request_error("DELETE", f"{namespace.pods}/p", {"preconditions": {"uid": "other"}}) == conflict(
        why
    )
    assert namespace.get_pod("p")


def test_a_delete_with_another_resource_version_as_precondition_is_refused(namespace: Namespace) -> None:
    metadata = namespace.create_pod("p")["metadata"]
    why = (
        f"the ResourceVersion in the precondition (1) does not match the ResourceVersion in record "
        f"({metadata['resourceVersion']}). The object might have been modified"
    )
    assert namespace.request_error(
        "DELETE", f"{namespace.pods}/p", {"preconditions": {"resourceVersion": "1"}}
    ) == conflict(why)
    assert namespace.get_pod("p")


def test_a_delete_whose_preconditions_hold_succeeds(namespace: Namespace) -> None:
    metadata = namespace.create_pod("p")["metadata"]
    namespace.delete_pod("p", preconditions={"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]})
    assert not namespace.get_pod("p")


def test_a_uid_precondition_protects_a_new_pod_of_the_same_name(namespace: Namespace) -> None:
    first = namespace.create_pod("p")["metadata"]["uid"]
    namespace.delete_pod("p")
    second = namespace.create_pod("p")["metadata"]["uid"]
    status = namespace.request_error("DELETE", f"{namespace.pods}/p", {"preconditions": {"uid": first}})
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert namespace.get_pod("p")["metadata"]["uid"] == second


def test_deleting_a_missing_pod_with_a_precondition_is_not_found(namespace: Namespace) -> None:
    assert (
        namespace.request_error("DELETE", f"{namespace.pods}/p", {"preconditions": {"uid": "other"}})["reason"]
        == "NotFound"
    )


@pytest.mark.parametrize("bound", [False, True])
def test_a_finalizer_keeps_a_deleted_pod_until_it_is_removed(namespace: Namespace, bound: bool) -> None:
    namespace.create_pod("p", metadata={"finalizers": ["example.com/hold"]})
    if bound:
        namespace.bind_pod("p")
    response = namespace.delete_pod("p", gracePeriodSeconds=0)
    assert response["kind"] == "Pod"
    assert response["metadata"]["deletionGracePeriodSeconds"] == 0
    assert response["metadata"]["finalizers"] == ["example.com/hold"]
    again = namespace.delete_pod("p", gracePeriodSeconds=0)
    assert again["metadata"]["deletionTimestamp"] == response["metadata"]["deletionTimestamp"]
    assert namespace.get_pod("p")["metadata"]["deletionTimestamp"] == response["metadata"]["deletionTimestamp"]
    namespace.patch_pod("p", {"metadata": {"finalizers": None}})
    assert not namespace.get_pod("p")


def test_a_terminating_pod_outlives_its_last_finalizer_until_its_grace_period_ends(namespace: Namespace) -> None:
    namespace.create_pod("p", metadata={"finalizers": ["example.com/hold"]})
    namespace.bind_pod("p")
    namespace.delete_pod("p")
    namespace.patch_pod("p", {"metadata": {"finalizers": None}})
    assert namespace.get_pod("p")["metadata"]["deletionGracePeriodSeconds"] == 30


def test_a_collection_is_deleted_by_label_selector(namespace: Namespace) -> None:
    for name in "abc":
        namespace.create_pod(name, labels={"go": "no" if name == "b" else "yes"})
        namespace.bind_pod(name)
    gone = namespace.call("DELETE", namespace.pods, labelSelector="go=yes", gracePeriodSeconds=0)
    assert gone["kind"] == "PodList"
    assert namespace.pod_names() == ["b"]
