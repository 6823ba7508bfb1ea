"""The garbage collector: what becomes of the dependents of deleted objects, by propagation policy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.controllers.test_jobs import FOREVER, TRACKING, create, pods_of, wait_for_pods
from tests.contract.namespace import EXITS_ON_SIGTERM, MERGE, Json, Namespace, job

ABSENT = "00000000-0000-0000-0000-000000000000"
MISSING = {"apiVersion": "batch/v1", "kind": "Job", "name": "missing", "uid": ABSENT}


def reference(owner: Json, **fields: Any) -> Json:
    about = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {**about, "uid": owner["metadata"]["uid"], **fields}


def create_dependent(namespace: Namespace, name: str, *owners: Json, **metadata: Any) -> Json:
    """Create a pod that has these owners, and that no scheduler binds."""
    return namespace.create_pod(name, metadata={"ownerReferences": list(owners), **metadata})


@pytest.mark.parametrize("options", [None, {"propagationPolicy": "Orphan"}], ids=["by default", "by policy"])
def test_deleting_a_job_orphans_its_pods_which_run_on(namespace: Namespace, options: Json | None) -> None:
    create(namespace, job("j", FOREVER))
    (pod,) = wait_for_pods(namespace, 1)
    namespace.call("DELETE", f"{namespace.jobs}/j", options)
    namespace.wait_for(f"{namespace.jobs}/j", lambda found: not found)
    orphan = namespace.wait_until(pod["metadata"]["name"], lambda found: "finalizers" not in found["metadata"])
    assert "ownerReferences" not in orphan["metadata"]
    assert "deletionTimestamp" not in orphan["metadata"]
    assert orphan["metadata"]["labels"] == pod["metadata"]["labels"]
    assert orphan["status"]["phase"] == "Running"


def test_deleting_a_job_in_the_background_terminates_its_pods_afterwards(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER, parallelism=2, completions=2))
    first, second = wait_for_pods(namespace, 2)
    status = namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Background"})
    assert status["status"] == "Success"
    assert not namespace.find(f"{namespace.jobs}/j")
    dying = namespace.wait_until(first["metadata"]["name"], lambda found: "deletionTimestamp" in found["metadata"])
    assert dying["metadata"]["deletionGracePeriodSeconds"] == 30
    namespace.wait_until_gone(first["metadata"]["name"])
    namespace.wait_until_gone(second["metadata"]["name"])


def test_deleting_a_job_in_the_foreground_keeps_it_until_its_pods_are_gone(namespace: Namespace) -> None:
    create(namespace, job("j", FOREVER))
    (pod,) = wait_for_pods(namespace, 1)
    name = pod["metadata"]["name"]
    namespace.patch_pod(name, {"metadata": {"finalizers": [TRACKING, "example.com/hold"]}})
    namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
    namespace.wait_until(name, lambda found: found["metadata"].get("finalizers") == ["example.com/hold"])
    assert namespace.find(f"{namespace.jobs}/j")["metadata"]["finalizers"] == ["foregroundDeletion"]
    namespace.patch_pod(name, {"metadata": {"finalizers": None}})
    namespace.wait_for(f"{namespace.jobs}/j", lambda found: not found)
    assert not namespace.get_pod(name)


def test_a_job_in_foreground_deletion_creates_no_pods(namespace: Namespace) -> None:
    create(namespace, job("j", EXITS_ON_SIGTERM))
    wait_for_pods(namespace, 1)
    namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
    namespace.wait_for(f"{namespace.jobs}/j", lambda found: not found)
    assert pods_of(namespace) == []


def test_a_dependent_whose_owner_does_not_exist_is_deleted(namespace: Namespace) -> None:
    create_dependent(namespace, "p", MISSING)
    namespace.wait_until_gone("p")


def test_a_dependent_whose_owner_was_replaced_by_one_of_the_same_name_is_deleted(namespace: Namespace) -> None:
    owner = create(namespace, job("j", suspend=True))
    create_dependent(namespace, "kept", reference(owner))
    create_dependent(namespace, "p", {**reference(owner), "uid": ABSENT})
    namespace.wait_until_gone("p")
    assert namespace.get_pod("kept")


def test_a_dependent_with_an_owner_of_an_unknown_kind_stays(namespace: Namespace) -> None:
    unknown = {"apiVersion": "example.com/v1", "kind": "Gadget", "name": "g", "uid": f"{ABSENT[:-1]}1"}
    create_dependent(namespace, "kept", unknown, MISSING)
    create_dependent(namespace, "p", MISSING)
    namespace.wait_until_gone("p")
    assert namespace.get_pod("kept")["metadata"]["ownerReferences"] == [unknown, MISSING]


def test_a_dependent_with_another_owner_stays_and_loses_the_reference(namespace: Namespace) -> None:
    owners = [create(namespace, job(name, suspend=True)) for name in ("gone", "stays")]
    create_dependent(namespace, "p", *(reference(owner) for owner in owners))
    namespace.call("DELETE", f"{namespace.jobs}/gone", {"propagationPolicy": "Background"})
    left = [reference(owners[1])]
    namespace.wait_until("p", lambda found: found["metadata"]["ownerReferences"] == left)


def test_a_dependent_that_does_not_block_its_owner_is_deleted_with_it(namespace: Namespace) -> None:
    owner = create(namespace, job("j", suspend=True))
    create_dependent(namespace, "p", reference(owner), finalizers=["example.com/hold"])
    namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
    namespace.wait_for(f"{namespace.jobs}/j", lambda found: not found)
    namespace.wait_until("p", lambda found: "deletionTimestamp" in found["metadata"])
    namespace.patch_pod("p", {"metadata": {"finalizers": None}})
    namespace.wait_until_gone("p")


def test_foreground_deletion_reaches_the_dependents_of_dependents_first(namespace: Namespace) -> None:
    owner = create(namespace, job("j", suspend=True))
    parent = create_dependent(namespace, "parent", reference(owner, blockOwnerDeletion=True))
    child = reference(parent, blockOwnerDeletion=True)
    create_dependent(namespace, "child", child, finalizers=["example.com/hold"])
    namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
    namespace.wait_until("child", lambda found: "deletionTimestamp" in found["metadata"])
    assert namespace.get_pod("parent")["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert namespace.find(f"{namespace.jobs}/j")["metadata"]["finalizers"] == ["foregroundDeletion"]
    namespace.call("PATCH", f"{namespace.pods}/child", {"metadata": {"finalizers": None}}, MERGE)
    namespace.wait_for(f"{namespace.jobs}/j", lambda found: not found)
    assert namespace.pod_names() == []
