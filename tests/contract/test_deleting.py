"""DELETE: at once, while the pod is being deleted, and if it is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.contract.space import Json, Space


@pytest.mark.parametrize("options", [{}, *({"gracePeriodSeconds": seconds} for seconds in (0, 1, 100, -1))], ids=str)
def test_an_unbound_pod_goes_at_once(space: Space, options: Json) -> None:
    uid = space.create("p")["metadata"]["uid"]
    answer = space.delete("p", **options)
    assert (answer["kind"], answer["metadata"]["uid"]) == ("Pod", uid)
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 0
    assert not space.get("p")


@pytest.mark.parametrize(
    ("options", "grace"),
    [
        pytest.param({}, 30, id="the pod's own grace period"),
        pytest.param({"gracePeriodSeconds": 1}, 1, id="a shorter one"),
        pytest.param({"gracePeriodSeconds": 86400}, 86400, id="a longer one"),
        pytest.param({"gracePeriodSeconds": -1}, 1, id="a negative one counts as one second"),
    ],
)
def test_a_bound_pod_waits_for_its_kubelet(space: Space, options: Json, grace: int) -> None:
    space.create("p")
    space.bind("p")
    before = space.get("p")
    answer = space.delete("p", **options)
    found = space.get("p")
    assert found == answer
    metadata = found["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == grace
    assert metadata["generation"] == before["metadata"]["generation"] + 1
    deadline = datetime.fromisoformat(metadata["deletionTimestamp"])
    asked = deadline - timedelta(seconds=grace)
    assert timedelta(0) <= asked - datetime.fromisoformat(metadata["creationTimestamp"]) < timedelta(seconds=10)
    assert (found["spec"], found["status"]) == (before["spec"], before["status"])
    assert space.listed(fieldSelector="status.phase=Pending") == ["p"]


def test_a_forced_delete_of_a_bound_pod_does_not_wait(space: Space) -> None:
    space.create("p")
    space.bind("p")
    answer = space.delete("p", gracePeriodSeconds=0)
    assert (answer["kind"], answer["metadata"]["deletionGracePeriodSeconds"]) == ("Pod", 0)
    assert not space.get("p")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("options", [{}, {"gracePeriodSeconds": 100}], ids=str)
def test_a_bound_pod_that_has_ended_goes_at_once(space: Space, phase: str, options: Json) -> None:
    space.create("p")
    space.bind("p")
    space.set_phase("p", phase)
    assert space.delete("p", **options)["metadata"]["deletionGracePeriodSeconds"] == 0
    assert not space.get("p")


def test_the_pods_own_grace_period_may_be_none_at_all(space: Space) -> None:
    space.create("p", terminationGracePeriodSeconds=0)
    space.bind("p")
    space.delete("p")
    assert not space.get("p")


def test_the_query_gives_options_too_but_a_body_overrules_it(space: Space) -> None:
    space.create("p")
    space.bind("p")
    space.call("DELETE", f"{space.pods}/p", {"gracePeriodSeconds": 60}, gracePeriodSeconds=0)
    assert space.get("p")
    space.call("DELETE", f"{space.pods}/p", gracePeriodSeconds=0)
    assert not space.get("p")


def test_a_later_delete_shortens_the_grace_period_and_never_lengthens_it(space: Space) -> None:
    space.create("p")
    space.bind("p")
    graces = [
        space.delete("p", gracePeriodSeconds=seconds)["metadata"]["deletionGracePeriodSeconds"]
        for seconds in (60, 90, 20)
    ]
    assert graces == [60, 60, 20]
    assert space.delete("p")["metadata"]["deletionGracePeriodSeconds"] == 20
    space.delete("p", gracePeriodSeconds=0)
    assert not space.get("p")


def conflict(why: str) -> dict[str, Any]:
    """Make the API server's error if a precondition on the pod ``p`` does not hold."""
    return {
        "metadata": {},
        "message": f'Operation cannot be fulfilled on Pod "p": {why}',
        "reason": "Conflict",
        "details": {"name": "p", "kind": "Pod"},
        "code": 409,
    }


def test_a_uid_precondition_that_does_not_hold_deletes_nothing(space: Space) -> None:
    metadata = space.create("p")["metadata"]
    why = (
        f"the UID in the precondition (other) does not match the UID in record ({metadata['uid']}). "
        "The object might have been deleted and then recreated"
    )
    assert space.fails("DELETE", f"{space.pods}/p", {"preconditions": {"uid": "other"}}) == conflict(why)
    assert space.get("p")


def test_a_version_precondition_that_does_not_hold_deletes_nothing(space: Space) -> None:
    metadata = space.create("p")["metadata"]
    why = (
        f"the ResourceVersion in the precondition (1) does not match the ResourceVersion in record "
        f"({metadata['resourceVersion']}). The object might have been modified"
    )
    assert space.fails("DELETE", f"{space.pods}/p", {"preconditions": {"resourceVersion": "1"}}) == conflict(why)
    assert space.get("p")


def test_preconditions_that_hold_delete(space: Space) -> None:
    metadata = space.create("p")["metadata"]
    space.delete("p", preconditions={"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]})
    assert not space.get("p")


def test_a_pod_of_the_same_name_is_another_pod(space: Space) -> None:
    first = space.create("p")["metadata"]["uid"]
    space.delete("p")
    second = space.create("p")["metadata"]["uid"]
    status = space.fails("DELETE", f"{space.pods}/p", {"preconditions": {"uid": first}})
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert space.get("p")["metadata"]["uid"] == second


def test_a_precondition_on_a_pod_that_is_gone_is_not_found(space: Space) -> None:
    assert space.fails("DELETE", f"{space.pods}/p", {"preconditions": {"uid": "other"}})["reason"] == "NotFound"


@pytest.mark.parametrize("bound", [False, True])
def test_a_finalizer_keeps_the_pod_until_it_is_taken_away(space: Space, bound: bool) -> None:
    space.create("p", metadata={"finalizers": ["example.com/hold"]})
    if bound:
        space.bind("p")
    answer = space.delete("p", gracePeriodSeconds=0)
    assert answer["kind"] == "Pod"
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 0
    assert answer["metadata"]["finalizers"] == ["example.com/hold"]
    again = space.delete("p", gracePeriodSeconds=0)
    assert again["metadata"]["deletionTimestamp"] == answer["metadata"]["deletionTimestamp"]
    assert space.get("p")["metadata"]["deletionTimestamp"] == answer["metadata"]["deletionTimestamp"]
    space.patch("p", {"metadata": {"finalizers": None}})
    assert not space.get("p")


def test_a_pod_with_a_grace_period_outlives_its_last_finalizer(space: Space) -> None:
    space.create("p", metadata={"finalizers": ["example.com/hold"]})
    space.bind("p")
    space.delete("p")
    space.patch("p", {"metadata": {"finalizers": None}})
    assert space.get("p")["metadata"]["deletionGracePeriodSeconds"] == 30


def test_a_collection_is_deleted_by_selector(space: Space) -> None:
    for name in "abc":
        space.create(name, labels={"go": "no" if name == "b" else "yes"})
        space.bind(name)
    gone = space.call("DELETE", space.pods, labelSelector="go=yes", gracePeriodSeconds=0)
    assert gone["kind"] == "PodList"
    assert space.listed() == ["b"]
